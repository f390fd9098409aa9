//! Sends back the messages of the Autobahn testsuite's fuzzing server, on one connection for each of its cases.
//!
//! The server's address, the number of cases and the client's name come from `AUTOBAHN_URL`, `AUTOBAHN_CASES` and
//! `AUTOBAHN_AGENT`. `tests/run` runs this program.

use std::{env, error::Error};

use ringhub::{
    client::{Client, ClientEvent, ClientLimits},
    proto::MessageLimits,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("AUTOBAHN_URL")?;
    let agent = env::var("AUTOBAHN_AGENT").unwrap_or_else(|_| "ringhub".into());
    let cases: u32 = env::var("AUTOBAHN_CASES")?.parse()?;
    for case in 1..=cases {
        echo(&format!("{url}/runCase?case={case}&agent={agent}")).await?;
    }
    Ok(())
}

/// Runs one case by a callback, so that a message is answered before the next frame is read. The suite expects answers
/// to all messages before a violation.
async fn echo(url: &str) -> Result<(), Box<dyn Error>> {
    let bytes_max = 16 << 20;
    let message = MessageLimits { frame_bytes_max: bytes_max, message_bytes_max: bytes_max, ..MessageLimits::DEFAULT };
    let limits = ClientLimits { message, queue_bytes_max: 2 * bytes_max, ..ClientLimits::default() };
    let client = Client::builder().url(url).limits(limits).build_with(|client, event| {
        let answered = match event {
            ClientEvent::Text(text) => client.try_send_text(text),
            ClientEvent::Binary(bytes) => client.try_send_binary(bytes),
            ClientEvent::Closed(closed) => return println!("{closed}"),
            _ => Ok(()),
        };
        if let Err(error) = answered {
            println!("{error}");
        }
    })?;
    client.connect().await?;
    client.closed().await;
    Ok(())
}
