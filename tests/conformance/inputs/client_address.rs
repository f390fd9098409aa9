//! Headers of the PROXY protocol, and the lists in which proxies name their clients, with faults.

use crate::random::Random;

/// Returns a header or a list, perhaps with a few faults.
pub(crate) fn client_address(random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(3) {
        0 => text(random).into_bytes(),
        1 => binary(random),
        _ => list(random).into_bytes(),
    };
    for _ in 0..random.pick(&[0, 0, 1, 1, 2, 5]) {
        random.spoil(&mut bytes);
    }
    if random.once_in(2) {
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
    }
    bytes
}

fn text(random: &mut Random) -> String {
    let families = ["TCP4", "TCP6", "UNKNOWN", "UDP4"];
    let addresses = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "255.255.255.255", "0", ""];
    let ports = ["0", "1", "65535", "65536", "01"];
    let family = random.pick(&families);
    let [from, to] = [random.pick(&addresses), random.pick(&addresses)];
    let [of_client, own] = [random.pick(&ports), random.pick(&ports)];
    let end = random.pick(&["\r\n", "\r\n", "\n", "\r", ""]);
    format!("PROXY {family} {from} {to} {of_client} {own}{end}")
}

fn binary(random: &mut Random) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.push(random.pick(&[0x20, 0x21, 0x21, 0x22, 0x11]));
    bytes.push(random.pick(&[0x00, 0x11, 0x12, 0x21, 0x31, 0x41]));
    let length = random.pick(&[0_u16, 11, 12, 13, 36, 40, 216, 300, 4_080, 4_081]);
    bytes.extend_from_slice(&length.to_be_bytes());
    let rest = if random.once_in(4) { random.below(usize::from(length) + 1) } else { usize::from(length) };
    bytes.extend(random.bytes(rest));
    bytes
}

fn list(random: &mut Random) -> String {
    let parts = [
        "for=",
        "FOR=",
        "by=",
        "host=",
        "\"",
        "\\",
        "\\\"",
        ",",
        ";",
        " ",
        "=",
        "192.0.2.1",
        "[2001:db8::1]",
        ":80",
        "unknown",
        "_x",
        "\"[2001:db8::1]:7\"",
        "fe80::1%eth0",
    ];
    let count = random.below(24);
    (0..count).map(|_| random.pick(&parts)).collect()
}
