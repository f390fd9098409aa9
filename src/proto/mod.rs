//! RFC 6455, sans-io: bytes and time come in; events, replies and deadlines go out.
