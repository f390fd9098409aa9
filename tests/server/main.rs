//! The server's binary as a process of its own, over real sockets.
//!
//! The tests share a process and run side by side, so none of them changes the process: its environment, its signals,
//! its limits. What a server needs of these is set in the server's own process, and a program that takes over the logs
//! of its process is this binary once more (`logs::a_program_that_panics`). Only the limit of open descriptors is
//! raised, by [`support::CrowdPermit`].

mod access;
mod answers;
mod backends;
mod config;
mod documents;
mod faults;
mod handshake;
mod health;
mod hostile;
mod http;
mod last_messages;
mod lifecycle;
mod logs;
mod manual;
mod memory;
mod metrics;
mod order;
mod orphans;
mod pages;
mod places;
mod proxies;
mod raw_topics;
mod routes;
mod seccomp;
mod service_manager;
mod shards;
mod smuggling;
mod soak;
#[path = "../support/mod.rs"]
mod support;
