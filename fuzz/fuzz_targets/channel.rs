#![no_main]

use tillwire_channels::Channel;
use tillwire_channels::topic::hears;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // One channel is one text, for events are matched against the text.
    if let Ok(channel) = text.parse::<Channel>() {
        assert_eq!(channel.to_string(), text);
        assert!(hears(text, text) && hears(channel.topic.name(), text));
    }
    // What is joined hears what it is a beginning of, and that only where a part ends.
    if let Some((joined, happened)) = text.split_once(' ') {
        let parts = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(hears(joined, happened), parts(happened).starts_with(&parts(joined)));
    }
});
