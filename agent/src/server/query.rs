//! Query strings.

/// Names and values in order, percent-decoded.
#[must_use]
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let split = query.split('&').filter(|p| !p.is_empty());
    split
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

/// The first value of that name.
#[must_use]
pub fn get<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// `1` and `true` are true, as is a name without value.
#[must_use]
pub fn flag(pairs: &[(String, String)], name: &str) -> bool {
    get(pairs, name).is_some_and(|v| matches!(v, "1" | "true" | "True" | "TRUE" | "t" | "T" | ""))
}

/// `%41` and `+`.
#[must_use]
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_repeated_names_kept() {
        let all = pairs("command=sh&command=-c&command=echo%20a+b%2B&tty=1&follow");
        let commands: Vec<_> = all
            .iter()
            .filter(|(n, _)| n == "command")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(commands, ["sh", "-c", "echo a b+"]);
        assert!(flag(&all, "tty") && flag(&all, "follow") && !flag(&all, "stdin"));
        assert_eq!(decode("%zz%"), "%zz%");
    }
}
