//! The operations of io_uring that a shard uses.

use io_uring::opcode;

/// An operation that a shard uses.
pub(super) struct Operation {
    pub(super) code: u8,
    /// Its name in the kernel's headers.
    pub(super) constant: &'static str,
    /// Its name in words.
    pub(super) name: &'static str,
}

/// The operations of both rings of a shard.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation { code: opcode::Nop::CODE, constant: "NOP", name: "nop" },
    Operation { code: opcode::PollAdd::CODE, constant: "POLL_ADD", name: "poll" },
    Operation { code: opcode::AsyncCancel::CODE, constant: "ASYNC_CANCEL", name: "cancellation" },
    Operation { code: opcode::Recv::CODE, constant: "RECV", name: "recv" },
    Operation { code: opcode::Send::CODE, constant: "SEND", name: "send" },
    Operation { code: opcode::SendMsg::CODE, constant: "SENDMSG", name: "sendmsg" },
];

/// The operations of the hot ring, by their codes. A NOP takes the place of an entry that is withdrawn.
pub(super) const HOT_RING: &[u8] = &[
    opcode::Nop::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
];

/// The operations of the runtime's ring, by their codes. tokio-uring cancels operations whose futures are dropped.
pub(super) const RUNTIME_RING: &[u8] = &[opcode::Nop::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];

#[cfg(test)]
mod tests {
    use super::*;

    /// The probe tries each operation that a ring may be asked for, and none besides.
    #[test]
    fn the_rings_use_the_operations_that_are_probed() {
        let mut probed: Vec<u8> = OPERATIONS.iter().map(|operation| operation.code).collect();
        let mut used = [HOT_RING, RUNTIME_RING].concat();
        probed.sort_unstable();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used, probed);
    }
}
