//! Limits of what clients may take from a server in a time, and of its memory, over real sockets.

mod arrivals;
mod guesses;
mod memory;
mod rates;
