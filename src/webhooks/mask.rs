//! Masking: people read what is kept of requests and answers, so what looks like a secret, or says who somebody is, is struck
//! out before it is kept. What it does not know it cannot strike out: this is the last line and not the first.

/// What stands where something was struck out, or as much of it as what was there had room for.
const STRUCK: &str = "***";
/// How far beyond the end it is looked, for a secret is known by all of it.
pub const AHEAD_BYTES: usize = 1024;

/// The fields that hold secrets, by how their names end; without case, `_` and `-`.
const SECRET_ENDINGS: &[&str] = &[
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "authorization",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "credential",
    "credentials",
    "cookie",
    "signature",
];
/// Those of them that take the rest of a line.
const LINES: &[&str] = &["authorization", "cookie", "signature"];
/// Those whose names are too short for that, and those that say who somebody is.
const SECRET_NAMES: &[&str] = &[
    "pwd",
    "pin",
    "otp",
    "cvv",
    "cvc",
    "pan",
    "cardnumber",
    "email",
    "emailaddress",
    "phone",
    "phonenumber",
    "telephone",
    "tel",
    "mobile",
    "mobilenumber",
    "msisdn",
    "whatsapp",
    "address",
    "streetaddress",
    "billingaddress",
    "deliveryaddress",
    "shippingaddress",
    "customername",
    "customeremail",
    "customerphone",
    "firstname",
    "lastname",
    "fullname",
    "surname",
    "birthdate",
    "birthday",
    "dateofbirth",
    "dob",
    // In Indonesian.
    "hp",
    "nohp",
    "nomorhp",
    "telp",
    "notelp",
    "telepon",
    "notelepon",
    "nomortelepon",
    "alamat",
    "nama",
    "namalengkap",
    "namapelanggan",
    "tanggallahir",
    "npwp",
    "nik",
    "ktp",
    "noktp",
    "katasandi",
];
/// What stands before the secret in `Authorization`.
const SCHEMES: &[&str] = &["bearer", "basic", "digest"];
/// How secrets begin that say what they are.
const PREFIXES: &[&str] = &["whsec_", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "ghp_", "xoxb-", "xoxp-"];
/// The shortest that is taken for a secret behind a scheme or a prefix.
const SECRET_BYTES_MIN: usize = 6;
/// The shortest beginning of a JSON web token that is known for one.
const JWT_BYTES_MIN: usize = 20;
/// How many digits a card has. Barcodes have 13 and fewer.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 14..=19;

/// The beginning of a text, with what is nobody's business struck out. It is no longer than the text, nor than `bytes_max`.
pub fn masked(text: &str, bytes_max: usize) -> String {
    let (end, window) = (cut(text, bytes_max), &text[..cut(text, bytes_max.saturating_add(AHEAD_BYTES))]);
    let (mut kept, mut at) = (String::with_capacity(end), 0);
    for (from, to) in spans(window) {
        if from >= end {
            break;
        }
        kept.push_str(&text[at..from]);
        kept.push_str(&STRUCK[..STRUCK.len().min(to - from).min(end - from)]);
        at = to;
    }
    if at < end {
        kept.push_str(&text[at..end]);
    }
    kept
}

/// The last place up to which a text has so many bytes and whole characters.
fn cut(text: &str, bytes_max: usize) -> usize {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// What is to be struck out: in order, and none within another. Each begins and ends beside ASCII.
fn spans(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let (mut spans, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if !is_word(bytes[at]) {
            at += 1;
            continue;
        }
        match span_at(text, at) {
            Some((from, to)) => {
                spans.push((from, to));
                at = to;
            }
            None => at = run(bytes, at, is_word),
        }
    }
    spans
}

/// What is to be struck out of what begins with this word.
fn span_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let end = run(bytes, at, is_name);
    let name = &text[at..end];
    named(bytes, name, end)
        .or_else(|| prefixed(text, at))
        .or_else(|| behind_scheme(bytes, name, end))
        .or_else(|| jwt(text, at))
        .or_else(|| card(bytes, at))
        .or_else(|| mail(bytes, at))
}

/// The value of a field, where the field's name says that it is a secret. `end` is behind the name.
fn named(bytes: &[u8], name: &str, end: usize) -> Option<(usize, usize)> {
    let name: String = name.chars().filter(|it| it.is_alphanumeric()).map(|it| it.to_ascii_lowercase()).collect();
    let is_secret = SECRET_NAMES.contains(&&*name) || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending));
    if !is_secret {
        return None;
    }
    // `"name": "value"`, also within a string of JSON, and `name=value`.
    let mut at = run(bytes, end, |it| matches!(it, b'\\' | b'"' | b'\'' | b' ' | b'\t'));
    if !matches!(bytes.get(at), Some(b':' | b'=')) {
        return None;
    }
    at = run(bytes, at + 1, |it| it.is_ascii_whitespace());
    let is_escaped = bytes.get(at) == Some(&b'\\');
    let quote_at = at + usize::from(is_escaped);
    let to = match bytes.get(quote_at) {
        Some(quote @ (b'"' | b'\'')) => {
            at = quote_at + 1;
            end_of_string(bytes, at, *quote, is_escaped)
        }
        // Of a header all that follows belongs to it.
        _ if LINES.iter().any(|ending| name.ends_with(ending)) => {
            run(bytes, at, |it| !matches!(it, b'\r' | b'\n' | b'"' | b'\'' | b'\\' | b'<'))
        }
        Some(b'{' | b'[') => return None,
        _ => run(bytes, at, |it| {
            !it.is_ascii_whitespace() && !matches!(it, b',' | b'&' | b';' | b'}' | b']' | b')' | b'<' | b'"' | b'\'')
        }),
    };
    let is_nothing = matches!(&bytes[at..to], b"" | b"null" | b"true" | b"false");
    (!is_nothing).then_some((at, to))
}

/// Where a string ends that began before `at`.
fn end_of_string(bytes: &[u8], mut at: usize, quote: u8, is_escaped: bool) -> usize {
    while let Some(it) = bytes.get(at) {
        match it {
            b'\\' if is_escaped && bytes.get(at + 1) == Some(&quote) => return at,
            // The one after it is no end, whatever it is: but not half of a character.
            b'\\' if bytes.get(at + 1).is_some_and(u8::is_ascii) => at += 2,
            it if *it == quote => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A secret that says what it is.
fn prefixed(text: &str, at: usize) -> Option<(usize, usize)> {
    let prefix = PREFIXES.iter().find(|prefix| text[at..].starts_with(**prefix))?;
    let from = at + prefix.len();
    let to = run(text.as_bytes(), from, is_token);
    (to - from >= SECRET_BYTES_MIN).then_some((from, to))
}

/// `Bearer` and what follows it.
fn behind_scheme(bytes: &[u8], name: &str, end: usize) -> Option<(usize, usize)> {
    let from = run(bytes, end, |it| it == b' ');
    let to = run(bytes, from, is_token);
    let is_one = SCHEMES.iter().any(|scheme| name.eq_ignore_ascii_case(scheme));
    (is_one && from > end && to - from >= SECRET_BYTES_MIN).then_some((from, to))
}

/// A JSON web token: its header is an object, whose base64 begins so.
fn jwt(text: &str, at: usize) -> Option<(usize, usize)> {
    let to = run(text.as_bytes(), at, |it| is_name(it) || it == b'.');
    let is_one = text[at..].starts_with("eyJ") && to - at >= JWT_BYTES_MIN;
    is_one.then_some((at, to))
}

/// A card's number, alone or in groups, whose last digit is right.
fn card(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let is_near = |it: Option<&u8>| it.is_some_and(|it| is_word(*it) || *it == b'-');
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    if is_near(before) || before == Some(&b'.') {
        return None;
    }
    // Behind it a point may end a sentence.
    let goes_on = |to: usize| match bytes.get(to) {
        Some(b'.') => bytes.get(to + 1).is_some_and(u8::is_ascii_digit),
        it => is_near(it),
    };
    let (mut digits, mut to, mut found) = (Vec::new(), at, None);
    while let Some(digit) = bytes.get(to).filter(|it| it.is_ascii_digit()) {
        digits.push(digit - b'0');
        to += 1;
        if CARD_DIGITS.contains(&digits.len()) && is_card(&digits) && !goes_on(to) {
            found = Some((at, to));
        }
        let is_group = matches!(bytes.get(to), Some(b' ' | b'-')) && bytes.get(to + 1).is_some_and(u8::is_ascii_digit);
        to += usize::from(is_group);
    }
    found
}

/// Whether these may be the digits of a card: of an issuer's range, and with the check digit that follows from the others.
fn is_card(digits: &[u8]) -> bool {
    let is_issued = match digits.first() {
        Some(2) => digits.len() == 16,
        Some(3) => true,
        Some(4..=6) => digits.len() >= 16,
        _ => false,
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match u32::from(*digit) * (1 + place as u32 % 2) {
            twice @ 10.. => twice - 9,
            once => once,
        })
        .sum();
    is_issued && sum.is_multiple_of(10)
}

/// An address of electronic mail.
fn mail(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let name = run(bytes, at, |it| is_name(it) || matches!(it, b'.' | b'+' | b'%'));
    if bytes.get(name) != Some(&b'@') {
        return None;
    }
    let host = run(bytes, name + 1, |it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-'));
    (host > name + 1 && bytes[name + 1..host].contains(&b'.')).then_some((at, host))
}

/// Where those that are so come to an end.
fn run(bytes: &[u8], from: usize, is_one: impl Fn(u8) -> bool) -> usize {
    from + bytes[from.min(bytes.len())..].iter().take_while(|it| is_one(**it)).count()
}

fn is_word(it: u8) -> bool {
    it.is_ascii_alphanumeric() || it == b'_'
}

fn is_name(it: u8) -> bool {
    is_word(it) || it == b'-'
}

fn is_token(it: u8) -> bool {
    is_name(it) || matches!(it, b'.' | b'~' | b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: usize = 10_000;

    #[test]
    fn secrets_are_struck_out() {
        for (text, expected) in [
            ("Authorization: Bearer abc.def-123\nHost: here", "Authorization: ***\nHost: here"),
            ("it said bearer c2VjcmV0c2VjcmV0, twice", "it said bearer ***, twice"),
            (r#"{"token":"abc","total":1}"#, r#"{"token":"***","total":1}"#),
            (r#"{"access_token": "a\"b", "ok": true}"#, r#"{"access_token": "***", "ok": true}"#),
            (r#"{"body":"{\"api_key\":\"k-1234\",\"n\":1}"}"#, r#"{"body":"{\"api_key\":\"***\",\"n\":1}"}"#),
            ("user=ani&password=p4ss&x=1", "user=ani&password=***&x=1"),
            ("clientSecret = 's3cr3t'", "clientSecret = '***'"),
            ("X-Api-Key: 0123456789abcdef", "X-Api-Key: ***"),
            ("webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", "webhook-signature: ***"),
            ("a whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw in it", "a whsec_*** in it"),
            ("(eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln)", "(***)"),
            ("paid by 4111 1111 1111 1111 today", "paid by *** today"),
            ("5555-5555-5555-4444", "***"),
            ("\"378282246310005\"", "\"***\""),
            ("2026 4111111111111111", "2026 ***"),
            ("Card 4111111111111111. Declined", "Card ***. Declined"),
            ("Declined: 4111 1111 1111 1111.", "Declined: ***."),
            ("to ani.b+shop@toko-roti.example now", "to *** now"),
            (r#"{"email":"ani@roti.example","phone":62811234}"#, r#"{"email":"***","phone":***}"#),
            (r#"{"no_hp":"0812345","telepon":62811,"nama":"Ani"}"#, r#"{"no_hp":"***","telepon":***,"nama":"***"}"#),
            ("hp=0812345&alamat=Jl.+Melati+5&no-ktp=3171", "hp=***&alamat=***&no-ktp=***"),
            (r#"{"shipping_address":"Jl. 5","telephone":62811}"#, r#"{"shipping_address":"***","telephone":***}"#),
            ("pin=1", "pin=*"),
        ] {
            assert_eq!(masked(text, ALL), expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "",
            "the token is bad, and so is the password.",
            r#"{"token":null,"secret":"","password":false}"#,
            r#"{"sale":"01960000-0000-7000-8000-000000000006","number":"JKT1-K1-000172"}"#,
            r#"{"position":"1041.2-9f3ac2d1","total_minor":4500000000000000}"#,
            r#"{"barcodes":["8991234567897","4006381333931"],"timestamp":"2026-11-30T10:28:40.123456Z"}"#,
            "4111 1111 1111 1112",
            "id-4111111111111111-of",
            "4111111111111111.25 of it",
            r#"{"name":"roti","shop":1,"dynamic":"nama","https":"hp"}"#,
            "shipping: 5, tokens: 7, basic bread",
            "naïve ⚙ text, whsec_ and eyJ",
        ] {
            assert_eq!(masked(text, ALL), text);
        }
    }

    #[test]
    fn it_is_cut_within_a_secret_and_behind_it_and_nothing_of_it_is_left() {
        let text = "token=abcdefghijklmnop&x=1";
        for bytes_max in 0..text.len() {
            let kept = masked(text, bytes_max);
            assert!(kept.len() <= bytes_max && !kept.contains("abc"), "{bytes_max}: {kept}");
        }
        assert_eq!(masked("card 4111 1111 1111 1111", 12), "card ***");
        assert_eq!(masked("ééé", 3), "é");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_never_longer_and_always_text(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("token"), Just("\":\""), Just("\\\""), Just("\\"), Just("\""), Just("'"), Just("="), Just(": "),
                    Just("Bearer "), Just("whsec_"), Just("eyJ"), Just("4111 1111 1111 1111"), Just("é"), Just("⚙"),
                    Just("abcdefgh"), Just("@"), Just("a.b"), Just("["), Just("\n"), Just("authorization"),
                ],
                0..40,
            ),
            bytes_max in 0..200_usize,
        ) {
            let text = parts.concat();
            let kept = masked(&text, bytes_max);
            prop_assert!(kept.len() <= bytes_max && kept.len() <= text.len());
        }
    }
}
