//! Content-defined parts: where a stream of bytes is cut depends on the bytes around the cut alone, so that two archives
//! that share files share parts, wherever these lie. Client and server cut alike, which is what makes a part known.
//!
//! A rolling hash ("gear") over the last 64 bytes; a cut where its upper `BITS` bits are zero.

use std::io::Read;

/// No part but the last is smaller.
pub const MIN: usize = 32 << 10;
/// No part is larger.
pub const MAX: usize = 512 << 10;
/// Cuts are so many bits rare beyond [`MIN`]: parts of 96 KiB on average, few enough to be files of their own.
const BITS: u32 = 16;

const GEAR: [u64; 256] = gear();

/// Pseudo-random numbers, fixed for ever: other ones cut elsewhere, and nothing stored before is recognised.
const fn gear() -> [u64; 256] {
    let mut out = [0; 256];
    let mut state: u64 = 0x7469_6465_7768_6565;
    let mut i = 0;
    while i < 256 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        out[i] = z ^ (z >> 31);
        i += 1;
    }
    out
}

/// Length of the first part of `data`, which has to hold at least [`MAX`] bytes or all that is left.
pub fn cut(data: &[u8]) -> usize {
    let end = data.len().min(MAX);
    if end <= MIN {
        return end;
    }
    let mut hash: u64 = 0;
    // The hash has forgotten all but the last 64 bytes: what lies before them need not be read.
    for (at, byte) in data[..end].iter().enumerate().skip(MIN - 64) {
        hash = (hash << 1).wrapping_add(GEAR[*byte as usize]);
        if at >= MIN && hash >> (64 - BITS) == 0 {
            return at + 1;
        }
    }
    end
}

/// Reads to the end and gives each part; stops early when `part` says false.
///
/// # Errors
///
/// Those of the reader.
pub fn split(mut from: impl Read, mut part: impl FnMut(&[u8]) -> bool) -> std::io::Result<()> {
    let mut buffer = vec![0u8; 2 * MAX];
    let mut held = 0;
    let mut whole = false;
    loop {
        while !whole && held < MAX {
            match from.read(&mut buffer[held..]) {
                Ok(0) => whole = true,
                Ok(n) => held += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if held == 0 {
            return Ok(());
        }
        let length = cut(&buffer[..held]);
        if !part(&buffer[..length]) {
            return Ok(());
        }
        buffer.copy_within(length..held, 0);
        held -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize, mut state: u64) -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    fn parts(data: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        split(data, |part| {
            out.push(part.to_vec());
            true
        })
        .expect("memory can be read");
        out
    }

    #[test]
    fn parts_put_together_are_the_whole_and_within_their_bounds() {
        for size in [0, 1, MIN, MIN + 1, MAX, 3 << 20] {
            let data = noise(size, 1);
            let parts = parts(&data);
            assert_eq!(parts.concat(), data);
            assert!(parts.iter().all(|p| p.len() <= MAX));
            assert!(parts.iter().rev().skip(1).all(|p| p.len() > MIN));
        }
        assert_eq!(parts(&vec![7; 2 * MAX]).len(), 2, "what has no pattern is cut at the bound");
    }

    #[test]
    fn a_change_in_the_middle_changes_few_parts() {
        let old = noise(4 << 20, 2);
        let mut new = old.clone();
        new.splice(2_000_000..2_000_010, noise(5_000, 3));
        let before = parts(&old);
        let changed: Vec<_> = parts(&new).into_iter().filter(|part| !before.contains(part)).collect();
        assert!(before.len() > 20, "{}", before.len());
        assert!((1..=3).contains(&changed.len()), "{}", changed.len());
    }

    #[test]
    fn the_places_of_cuts_are_fixed_for_ever() {
        let lengths: Vec<_> = parts(&noise(1 << 20, 4)).iter().map(Vec::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 1 << 20);
        assert_eq!(GEAR[0], gear()[0]);
        assert_eq!(cut(&noise(1 << 20, 4)), lengths[0]);
    }
}
