#![no_main]

use tillwire_channels::{Position, Tag};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // One position is one text, for the text is an id.
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(position) = text.parse::<Position>() {
            assert_eq!(position.to_string(), text);
        }
        if let Ok(tag) = text.parse::<Tag>() {
            assert_eq!(tag.to_string(), text);
        }
    }
    if let Some((seq, rest)) = data.split_first_chunk::<8>()
        && let Some((event, rest)) = rest.split_first_chunk::<4>()
        && let Some((tag, _)) = rest.split_first_chunk::<8>()
    {
        // A journal counts in `bigint`, and events from one.
        let (seq, tag) = (u64::from_be_bytes(*seq) >> 1, Tag(*tag));
        let position = match u32::from_be_bytes(*event) {
            0 => Position::of_entry(seq, tag),
            event => Position::of_event(seq, event, tag),
        };
        assert_eq!(position.to_string().parse(), Ok(position));
    }
});
