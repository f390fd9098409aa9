//! Prints the messages of a topic, and reconnects when its connection is lost:
//!
//! ```sh
//! cargo run --example client_tail -- ws://127.0.0.1:6455/t/news
//! ```
//!
//! Text messages go to standard output. For a binary message, the number of its bytes goes there. Everything else goes
//! to standard error. The program ends if the first attempt to connect fails. Later it ends with Ctrl-C, or at a close
//! or a refusal after which the client does not reconnect.

use std::{env, error::Error, process::ExitCode};

use ringhub::client::{Cause, Client, ClientEvent, Events, Reconnect};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(url) = env::args().nth(1) else {
        eprintln!("usage: client_tail ws://HOST:PORT/t/TOPIC");
        return ExitCode::from(2);
    };
    match tail(&url).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn tail(url: &str) -> Result<(), Box<dyn Error>> {
    let (client, mut events) = Client::builder().url(url).reconnect(Reconnect::default()).build()?;
    let opened = client.connect().await?;
    eprintln!("connected to {} ({})", opened.url, opened.peer_address);
    tokio::select! {
        end = print(&mut events) => end,
        _ = tokio::signal::ctrl_c() => Ok(client.close().await?),
    }
}

async fn print(events: &mut Events) -> Result<(), Box<dyn Error>> {
    while let Some(event) = events.next().await {
        match event {
            ClientEvent::Text(text) => println!("{text}"),
            ClientEvent::Binary(bytes) => println!("{} bytes", bytes.len()),
            ClientEvent::Lost(closed) => eprintln!("lost: {closed}"),
            ClientEvent::Reconnecting { attempt, delay, error: None } => eprintln!("attempt {attempt} in {delay:.1?}"),
            ClientEvent::Reconnecting { attempt, delay, error: Some(error) } => {
                eprintln!("{error}; attempt {attempt} in {delay:.1?}");
            }
            ClientEvent::Reconnected(opened) => eprintln!("connected again to {}", opened.url),
            ClientEvent::Closed(closed) => {
                eprintln!("{closed}");
                let is_orderly = closed.is_clean && matches!(closed.cause, Cause::Server);
                return if is_orderly { Ok(()) } else { Err("the connection is gone".into()) };
            }
            _ => {}
        }
    }
    Ok(())
}
