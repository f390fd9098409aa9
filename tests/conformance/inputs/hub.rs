//! Operations of a hub, for `bodies::hub`.

use crate::random::Random;

/// Makes up to 119 operations, of which the first connect and subscribe.
pub(crate) fn hub(random: &mut Random) -> Vec<u8> {
    let mut operations = vec![random.byte(), random.byte() & 7];
    for at in 0..20 + random.below(100) {
        let action = if at < 8 { random.pick(&[0, 0, 2]) } else { random.byte() };
        operations.extend([action, random.byte(), random.byte()]);
    }
    operations
}
