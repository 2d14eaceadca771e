//! Several URLs in one setting, separated by commas.

/// The URLs of a list. A comma counts only before another URL, since a password may hold one.
pub fn split(list: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in list.match_indices(',') {
        if begins_with_scheme(&list[comma + 1..]) {
            urls.push(list[start..comma].trim());
            start = comma + 1;
        }
    }
    urls.push(list[start..].trim());
    urls
}

fn begins_with_scheme(text: &str) -> bool {
    let scheme = text.trim_start().split_once("://").map_or("", |(scheme, _)| scheme);
    !scheme.is_empty() && scheme.bytes().all(|it| it.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_before_each_url_and_nowhere_else() {
        assert_eq!(split("redis://a:1"), ["redis://a:1"]);
        assert_eq!(split("amqp://a,amqp://b/v , amqps://c"), ["amqp://a", "amqp://b/v", "amqps://c"]);
        assert_eq!(split("redis://:a,b@c,redis://d"), ["redis://:a,b@c", "redis://d"]);
        assert_eq!(split(""), [""]);
        assert_eq!(split("redis://a,"), ["redis://a,"]); // Which is then refused as a URL.
    }
}
