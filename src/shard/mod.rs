//! The shard: the thread on which the pure parts of the hub meet the kernel.
//!
//! [`turn`] is the work, generic over `Io`. [`driver`] is the shell around the turn: the driver runs the runtime, takes
//! in the connections that [`accept`] and [`handshake`] bring, and decides when the next turn is due.

#![forbid(unsafe_code)]

mod accept;
mod access_lines;
mod adopt;
mod arrival;
mod attending;
mod awaiting;
mod census;
mod charging;
mod deadlines;
mod drain;
mod driver;
mod ending;
mod flush;
mod handlers;
mod handshake;
mod incoming;
mod input;
mod io_state;
mod joining;
mod kernel_limits;
mod lag;
mod leaving;
mod listener;
mod lobby;
mod mail;
mod marks;
mod memory;
mod memory_watch;
mod opening;
mod opening_sockets;
mod outgoing;
mod owed;
mod own_ids;
mod pace;
mod parking;
mod people;
mod rates;
mod receive;
mod refusals;
mod reload;
mod resuming;
mod schedule;
mod seats;
pub(crate) mod session;
mod several;
mod shedding;
mod sides;
#[cfg(test)]
mod simulator;
mod slow;
mod spawned;
mod state;
mod throttling;
mod timers;
mod top;
mod turn;
mod unfinished;
mod walk_samples;
mod warnings;

pub(crate) use driver::{ShardCommand, Start, run};
pub(crate) use listener::{Beginning, Listener, ListenerOwner};
pub(crate) use warnings::Warnings;
