//! Frames as bytes, valid and invalid ones.

/// The extent of a frame in a stream, read without any check.
pub(crate) struct RawFrame {
    payload_at: u64,
    pub(crate) payload_len: u64,
}

impl RawFrame {
    fn read(stream: &[u8], at: usize) -> Option<Self> {
        let [_, second, rest @ ..] = stream.get(at..)? else { return None };
        let length_bytes = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = 4 * usize::from(second >> 7);
        let payload_len = match rest.get(..length_bytes + mask_bytes)?.split_at(length_bytes).0 {
            [] => u64::from(second & 0x7F),
            octets => octets.iter().fold(0, |length, octet| length << 8 | u64::from(*octet)),
        };
        let payload_at = at + 2 + length_bytes + mask_bytes;
        Some(Self { payload_at: payload_at as u64, payload_len })
    }

    /// Returns the end of the frame, or of the stream if that comes first.
    pub(crate) fn end(&self, stream: &[u8]) -> usize {
        self.payload_at.saturating_add(self.payload_len).min(stream.len() as u64) as usize
    }

    fn missing(&self, stream: &[u8]) -> u64 {
        self.payload_at.saturating_add(self.payload_len).saturating_sub(stream.len() as u64)
    }
}

/// Returns the frames of a stream. The last frame may lack some of its payload.
pub(crate) fn frames(stream: &[u8]) -> Vec<RawFrame> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(frame) = RawFrame::read(stream, at).filter(|_| at < stream.len()) {
        at = frame.end(stream);
        frames.push(frame);
    }
    frames
}

/// Returns the stream with the missing bytes of its last frame added. If more bytes are missing than any limit allows,
/// only the header is completed.
pub(crate) fn completed(stream: &[u8]) -> Vec<u8> {
    let mut whole = stream.to_vec();
    let begun_at = frames(stream).last().map_or(0, |frame| frame.end(stream));
    if begun_at < stream.len() {
        // The header of the last frame is not whole.
        while RawFrame::read(&whole, begun_at).is_none() {
            whole.push(0);
        }
    }
    let missing = frames(&whole).last().map_or(0, |frame| frame.missing(&whole));
    if missing <= 1 << 16 {
        whole.resize(whole.len() + missing as usize, 0);
    }
    whole
}

/// Makes frames from a recipe, since random bytes are rarely valid frames. For each frame the recipe has its first
/// byte, a form, a length, and as many bytes of payload. Bit 0 of the form leaves out the mask. Bits 1 and 2 choose the
/// encoding of the length, bits 3 to 5 repeat the payload, and bit 6 cuts the frame after its header.
pub(crate) fn bake(mut recipe: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, form, length, rest @ ..] = recipe {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let payload = payload.repeat(1 + usize::from(form >> 3 & 7));
        let mask_bit = if form & 1 == 0 { 0x80 } else { 0 };
        let shortest = match payload.len() {
            0..=125 => 0,
            126..=0xFFFF => 1,
            _ => 2,
        };
        stream.push(*first);
        match shortest.max(form >> 1 & 3) {
            0 => stream.push(mask_bit | payload.len() as u8),
            1 => {
                stream.push(mask_bit | 126);
                stream.extend((payload.len() as u16).to_be_bytes());
            }
            encoding => {
                // The last encoding sets the highest bit, which RFC 6455 5.2 forbids.
                stream.push(mask_bit | 127);
                stream.extend((payload.len() as u64 | u64::from(encoding == 3) << 63).to_be_bytes());
            }
        }
        let mask = [*first, *form, *length, 0x5A];
        if mask_bit != 0 {
            stream.extend(mask);
        }
        if form & 0x40 == 0 {
            let key = if mask_bit == 0 { [0; 4] } else { mask };
            stream.extend(payload.iter().zip(key.iter().cycle()).map(|(octet, key)| octet ^ key));
        }
        recipe = rest;
    }
    stream
}
