//! Helpers of the tests in this folder.

/// Returns the bytes of hexadecimal digits, which may be grouped by field.
pub(super) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|c| c.to_digit(16)).collect();
    assert!(digits.len().is_multiple_of(2), "an octet has two digits");
    digits.chunks(2).map(|octet| (octet[0] << 4 | octet[1]) as u8).collect()
}
