//! Units: the parts of a server's messages that mean one thing each, such as a delivery or an acknowledgement.

/// How units are put into WebSocket messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Packing {
    /// A message is a unit.
    #[default]
    Whole,
    /// A message has one or more units, separated by line feeds.
    Lines,
    /// The messages together are the stream of the NATS client protocol. A unit is a line, or the payload of a `MSG`.
    Nats,
}

/// A part of a server's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit<'a> {
    /// A unit that the patterns of the protocol tell apart.
    Any(&'a [u8]),
    /// The payload of a delivery.
    Delivery(&'a [u8]),
}

/// Calls `each` for the units that a message completes. `rest` keeps the part of a unit for the next message.
///
/// # Errors
/// An error is returned if the bytes are not units of this packing.
pub(crate) fn split(
    packing: Packing,
    rest: &mut Vec<u8>,
    message: &[u8],
    mut each: impl FnMut(Unit<'_>),
) -> Result<(), &'static str> {
    match packing {
        Packing::Whole => each(Unit::Any(message)),
        Packing::Lines => {
            message.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).for_each(|line| each(Unit::Any(line)));
        }
        Packing::Nats if rest.is_empty() => {
            let used = split_nats(message, &mut each)?;
            rest.extend_from_slice(&message[used..]);
        }
        Packing::Nats => {
            rest.extend_from_slice(message);
            let used = split_nats(rest, &mut each)?;
            rest.drain(..used);
        }
    }
    Ok(())
}

/// Calls `each` for every whole unit, and returns the number of their bytes.
fn split_nats(stream: &[u8], each: &mut impl FnMut(Unit<'_>)) -> Result<usize, &'static str> {
    let mut used = 0;
    loop {
        let rest = &stream[used..];
        let Some(line_end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return if rest.len() > LINE_MAX { Err("a NATS line beyond the size limit") } else { Ok(used) };
        };
        let line = &rest[..line_end];
        if !line.starts_with(b"MSG ") {
            each(Unit::Any(line));
            used += line_end + 2;
            continue;
        }
        let size = line.rsplit(|&byte| byte == b' ').next().and_then(|digits| std::str::from_utf8(digits).ok());
        let size: usize = size.and_then(|digits| digits.parse().ok()).ok_or("a NATS MSG without a size")?;
        if size > crate::frame::PAYLOAD_MAX {
            return Err("a NATS MSG beyond the size limit");
        }
        let payload_at = line_end + 2;
        let Some(after) = rest.get(payload_at + size..payload_at + size + 2) else { return Ok(used) };
        if after != b"\r\n" {
            return Err("a NATS MSG of another size than it says");
        }
        each(Unit::Delivery(&rest[payload_at..payload_at + size]));
        used += payload_at + size + 2;
    }
}

/// The longest line: the INFO of a large cluster has some kilobytes.
const LINE_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(packing: Packing, messages: &[&[u8]]) -> Result<Vec<String>, &'static str> {
        let (mut rest, mut seen) = (Vec::new(), Vec::new());
        for message in messages {
            split(packing, &mut rest, message, |unit| {
                let (kind, bytes) = match unit {
                    Unit::Any(bytes) => ("", bytes),
                    Unit::Delivery(bytes) => ("delivery ", bytes),
                };
                seen.push(format!("{kind}{}", String::from_utf8_lossy(bytes)));
            })?;
        }
        assert!(rest.is_empty());
        Ok(seen)
    }

    #[test]
    fn messages_and_lines() {
        assert_eq!(check(Packing::Whole, &[b"a\nb"]), Ok(vec!["a\nb".to_owned()]));
        assert_eq!(check(Packing::Lines, &[b"{}\n{1}\n", b"{2}"]), Ok(["{}", "{1}", "{2}"].map(str::to_owned).into()));
    }

    #[test]
    fn a_stream_of_nats_may_be_cut_anywhere() {
        let stream = b"INFO {}\r\nPING\r\nMSG t 1 5\r\nhe\r\no\r\nMSG t 1 reply 0\r\n\r\n+OK\r\n";
        let expected = ["INFO {}", "PING", "delivery he\r\no", "delivery ", "+OK"].map(str::to_owned).to_vec();
        for step in [1, 2, 3, 7, stream.len()] {
            let messages: Vec<&[u8]> = stream.chunks(step).collect();
            assert_eq!(check(Packing::Nats, &messages).as_ref(), Ok(&expected), "in steps of {step}");
        }
        assert!(check(Packing::Nats, &[b"MSG t 1 x\r\n"]).is_err());
        assert!(check(Packing::Nats, &[b"MSG t 1 1\r\nabc\r\n"]).is_err());
        assert!(check(Packing::Nats, &[b"MSG t 1 999999999999\r\n"]).is_err());
        assert!(check(Packing::Nats, &[&[b'x'; LINE_MAX + 1]]).is_err());
    }
}
