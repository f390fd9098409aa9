//! Tests of the server's binary as a process, over real sockets.
//!
//! The tests share a process and run side by side, so none of them changes the environment, the signals or the limits
//! of this process. A server gets these in its own process. A program that takes over the logs of its process, or
//! gives up system calls, is another process of this test binary (`logs::a_program_that_panics`,
//! `sandbox::a_program_in_the_sandbox`). Only the limit of open descriptors is raised, by [`support::CrowdPermit`].

mod access;
mod access_log;
mod answers;
mod backends;
mod batches;
mod callbacks;
mod config;
mod container;
mod documents;
mod event_stream;
mod faults;
mod handshake;
mod health;
mod history;
mod hostile;
mod http;
mod idempotency;
mod identities;
mod last_messages;
mod lifecycle;
mod limits;
mod logs;
mod manual;
mod measures;
mod memory;
mod metrics;
mod order;
mod orphans;
mod pages;
mod people;
mod places;
mod presence;
mod proxies;
mod proxy_protocol;
mod raw_topics;
mod receipts;
mod reload;
mod resume;
mod routes;
mod sandbox;
mod seccomp;
mod service_manager;
mod shards;
mod smuggling;
mod soak;
mod sse;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod top;
mod topics_table;
mod trusted_proxies;
mod urgent;
mod v1;
