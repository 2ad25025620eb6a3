//! Names and other short texts with a grammar: labels, subdomains, ports, keys, addresses.
//!
//! Each function takes a text and returns every fault of it, in upstream's words, ready to be the detail of an
//! `Invalid` [`FieldError`]; an empty list means the text is good. Callers: object metadata, every kind's validation,
//! selectors. Written by hand instead of with regular expressions: these run for each label of each write.

use crate::field::{FieldError, FieldErrors, Path, quote};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_WORDS: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Longest label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;

fn max_len(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}
/// Some rules count bytes and say characters.
fn max_characters(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn regex_error(words: &str, grammar: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{words} (regex used for validation is '{grammar}')");
    }
    let shown: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!(
        "{words} (e.g. {}regex used for validation is '{grammar}')",
        shown.join(" or ")
    )
}

/// `must be between lo and hi, inclusive`.
pub fn inclusive_range(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

fn is_label(text: &str) -> bool {
    let b = text.as_bytes();
    let alnum = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    b.first().is_some_and(alnum) && b.last().is_some_and(alnum) && b.iter().all(|c| alnum(c) || *c == b'-')
}
fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// RFC 1123 label: what most names are.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_MAX {
        faults.push(max_characters(LABEL_MAX));
    }
    if !is_label(text) {
        if is_subdomain(text) {
            faults.push("must not contain dots".into());
        } else {
            faults.push(regex_error("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character", LABEL, &["my-name", "123-abc"]));
        }
    }
    faults
}

/// RFC 1123 subdomain: labels joined by dots.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    subdomain_counted(text, max_characters(SUBDOMAIN_MAX))
}

fn subdomain_counted(text: &str, too_long: String) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        faults.push(too_long);
    }
    if !is_subdomain(text) {
        faults.push(regex_error("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character", SUBDOMAIN, &["example.com"]));
    }
    faults
}

/// A subdomain in which labels may start with and contain underscores (searches of a pod's `dnsConfig`).
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    let label = |part: &str| {
        let rest = part.strip_prefix('_').unwrap_or(part);
        let b = rest.as_bytes();
        let alnum = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        b.first().is_some_and(alnum)
            && b.last().is_some_and(alnum)
            && b.iter().all(|c| alnum(c) || *c == b'-' || *c == b'_')
    };
    if !text.split('.').all(label) {
        const L: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        faults.push(regex_error("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character", &format!(r"{L}(\.{L})*"), &["example.com"]));
    }
    faults
}

/// RFC 1035 label: starts with a letter.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_MAX {
        faults.push(max_characters(LABEL_MAX));
    }
    if !(is_label(text) && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)) {
        faults.push(regex_error("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character", "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    faults
}

/// `*.example.com`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        faults.push(regex_error("a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character", &format!(r"\*\.{SUBDOMAIN}"), &["*.example.com"]));
    }
    faults
}

fn is_qualified_part(text: &str) -> bool {
    let b = text.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
        && b.iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Keys of labels, annotations, finalizers, conditions: `name` or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut faults = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".into());
            } else {
                let found = subdomain_counted(prefix, max_len(SUBDOMAIN_MAX));
                faults.extend(found.into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(QUALIFIED_WORDS, QUALIFIED, EXAMPLES)
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", max_len(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        faults.push(format!(
            "name part {}",
            regex_error(QUALIFIED_WORDS, QUALIFIED, EXAMPLES)
        ));
    }
    faults
}

/// Values of labels: empty, or like the name part of a key.
pub fn label_value(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_MAX {
        faults.push(max_len(LABEL_MAX));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        faults.push(regex_error("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character", &format!("({QUALIFIED})?"), &["MyValue", "my_value", "12345"]));
    }
    faults
}

/// Names of ports of containers and named target ports (RFC 6335 service names).
pub fn port_name(text: &str) -> Vec<String> {
    let mut faults: Vec<String> = Vec::new();
    if text.len() > 15 {
        faults.push(max_characters(15));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".into());
    }
    faults
}

pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec![inclusive_range(1, 65535)]
    }
}

/// Unix user and group ids.
pub fn unix_id(id: i64) -> Vec<String> {
    let max = i64::from(i32::MAX);
    if (0..=max).contains(&id) {
        Vec::new()
    } else {
        vec![inclusive_range(0, max)]
    }
}

/// `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text
        .strip_suffix('%')
        .is_some_and(|d| !d.is_empty() && d.bytes().all(|c| c.is_ascii_digit()));
    if digits {
        return Vec::new();
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// `[A-Za-z_][A-Za-z0-9_]*`.
pub fn c_identifier(text: &str) -> Vec<String> {
    let b = text.as_bytes();
    let good = b.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_')
        && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_');
    if good {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// Environment variable names as they were before 1.34 (fields that were not relaxed).
pub fn env_var(text: &str) -> Vec<String> {
    let b = text.as_bytes();
    let first = |c: &u8| c.is_ascii_alphabetic() || matches!(c, b'-' | b'.' | b'_');
    let mut faults = Vec::new();
    if !(b.first().is_some_and(first) && b.iter().all(|c| first(c) || c.is_ascii_digit())) {
        faults.push(regex_error("a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit", "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    faults.extend(parent_prefix(text));
    faults
}

/// Environment variable names: any printable ASCII but `=`.
pub fn relaxed_env_var(text: &str) -> Vec<String> {
    let mut faults: Vec<String> = Vec::new();
    if text.is_empty() {
        faults.push("environment variable name must be non-empty".into());
    }
    if !text.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        faults.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        );
    }
    faults
}

/// Keys of ConfigMaps and Secrets: they become file names.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    let b = text.as_bytes();
    if b.is_empty()
        || !b
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    {
        faults.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    faults.extend(parent_prefix(text));
    faults
}

fn parent_prefix(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if text.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// Names that only need to fit into a URL path (RBAC objects, and the floor for every name).
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

/// As [`path_segment`], for a prefix that gets a suffix later.
pub fn path_segment_prefix(text: &str) -> Vec<String> {
    ["/", "%"]
        .iter()
        .filter(|c| text.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// `a.b.c` and up (signer domains, scheduling gates' prefixes).
pub fn fully_qualified_name(path: &Path, text: &str) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let faults = dns1123_subdomain(text);
    if !faults.is_empty() {
        return vec![FieldError::invalid(path, text, faults.join(","))];
    }
    if text.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        return vec![FieldError::invalid(path, text, why)];
    }
    Vec::new()
}

/// `a.b` and up, a dot at the end allowed.
pub fn fully_qualified_domain(path: &Path, text: &str) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let faults = dns1123_subdomain(text);
    if !faults.is_empty() {
        return vec![FieldError::invalid(path, text, faults.join(","))];
    }
    if text.split('.').count() < 2 {
        return vec![FieldError::invalid(
            path,
            text,
            "should be a domain with at least two segments separated by dots",
        )];
    }
    for label in text.split('.') {
        let faults = dns1123_label(label);
        if !faults.is_empty() {
            return vec![FieldError::invalid(path, label, faults.join(","))];
        }
    }
    Vec::new()
}

/// `acme.io/foo`: a subdomain, a slash, an HTTP path (finalizers of signers, `managedBy`).
pub fn domain_prefixed_path(path: &Path, text: &str) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let Some((host, rest)) = text.split_once('/').filter(|(h, r)| !h.is_empty() && !r.is_empty()) else {
        return vec![FieldError::invalid(
            path,
            text,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )];
    };
    let mut errors: FieldErrors = dns1123_subdomain(host)
        .into_iter()
        .map(|m| FieldError::invalid(path, host, m))
        .collect();
    if !rest
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c))
    {
        errors.push(FieldError::invalid(
            path,
            rest,
            regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]),
        ));
    }
    errors
}

/// A qualified name with a prefix.
pub fn domain_prefixed_key(path: &Path, text: &str) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let errors: FieldErrors = qualified_name(text)
        .into_iter()
        .map(|m| FieldError::invalid(path, text, m))
        .collect();
    if errors.is_empty() && !text.contains('/') {
        return vec![FieldError::invalid(
            path,
            text,
            "must be a domain-prefixed key (such as \"acme.io/foo\")",
        )];
    }
    errors
}

// --- Addresses ------------------------------------------------------------------------------------------------------

/// Parses an address as old releases did: zeros in front of a number are ignored, mapped addresses are IPv4.
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        if let Ok(ip) = text.parse::<Ipv6Addr>() {
            return Some(unmap(ip));
        }
        let (head, tail) = text.rsplit_once(':')?;
        let v4 = parse_v4_sloppy(tail)?;
        return format!("{head}:{v4}").parse::<Ipv6Addr>().ok().map(unmap);
    }
    parse_v4_sloppy(text).map(IpAddr::V4)
}

fn unmap(ip: Ipv6Addr) -> IpAddr {
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

fn parse_v4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 32 || !part.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn strict_ip(path: &Path, text: &str) -> Result<IpAddr, FieldError> {
    let Some(ip) = parse_ip_sloppy(text) else {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return Err(FieldError::invalid(path, text, why));
    };
    match text.parse::<IpAddr>() {
        Err(_) => Err(FieldError::invalid(path, text, "must not have leading 0s")),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err(FieldError::invalid(
            path,
            text,
            "must not be an IPv4-mapped IPv6 address",
        )),
        Ok(_) => Ok(ip),
    }
}

/// Addresses in fields older than strict parsing: any spelling of IPv6, but no ambiguous ones. `old` lists values that
/// the object already had and may keep.
pub fn ip_legacy(path: &Path, text: &str, old: &[String]) -> FieldErrors {
    if old.iter().any(|o| o == text) {
        return Vec::new();
    }
    strict_ip(path, text).err().into_iter().collect()
}

/// Addresses in newer fields: canonical form only.
pub fn ip(path: &Path, text: &str) -> FieldErrors {
    match strict_ip(path, text) {
        Err(error) => vec![error],
        Ok(ip) if ip.to_string() != text => {
            let why = format!("must be in canonical form ({})", quote(&ip.to_string()));
            vec![FieldError::invalid(path, text, why)]
        }
        Ok(_) => Vec::new(),
    }
}

/// Warnings for addresses that [`ip_legacy`] lets pass.
pub fn ip_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some(ip) = parse_ip_sloppy(text) else {
        return Vec::new();
    };
    let canonical = ip.to_string();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Vec::new(),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            if canonical == text {
                return Vec::new();
            }
            vec![format!(
                "{path}: IPv6 address {} should be in RFC 5952 canonical format ({})",
                quote(text),
                quote(&canonical)
            )]
        }
        _ => vec![format!(
            "{path}: non-standard IP address {} is invalid: use {}",
            quote(text),
            quote(&canonical)
        )],
    }
}

/// An address block: the address as written, and the length of the prefix.
pub fn parse_cidr_sloppy(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let v6 = address.contains(':');
    let ip = parse_ip_sloppy(address)?;
    if length.is_empty() || length.len() > 32 || !length.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let digits = length.trim_start_matches('0');
    let length: u8 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    (length <= if v6 { 128 } else { 32 }).then_some((ip, length))
}

/// `ip` with the bits beyond `length` cleared.
pub fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(length.into()))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

fn strict_cidr(path: &Path, text: &str) -> Result<(IpAddr, u8), FieldError> {
    let Some((ip, length)) = parse_cidr_sloppy(text) else {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return Err(FieldError::invalid(path, text, why));
    };
    let (address, digits) = text.split_once('/').unwrap_or((text, ""));
    let written = address.parse::<IpAddr>();
    if written.is_err() || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(FieldError::invalid(
            path,
            text,
            "must not have leading 0s in IP or prefix length",
        ));
    }
    if matches!(written, Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some()) {
        return Err(FieldError::invalid(
            path,
            text,
            "must not have an IPv4-mapped IPv6 address",
        ));
    }
    if masked(ip, length) != ip {
        return Err(FieldError::invalid(
            path,
            text,
            "must not have bits set beyond the prefix length",
        ));
    }
    Ok((ip, length))
}

/// Blocks in fields older than strict parsing; see [`ip_legacy`].
pub fn cidr_legacy(path: &Path, text: &str, old: &[String]) -> FieldErrors {
    if old.iter().any(|o| o == text) {
        return Vec::new();
    }
    strict_cidr(path, text).err().into_iter().collect()
}

/// Blocks in newer fields: canonical form only.
pub fn cidr(path: &Path, text: &str) -> FieldErrors {
    match strict_cidr(path, text) {
        Err(error) => vec![error],
        Ok((ip, length)) if format!("{ip}/{length}") != text => {
            let why = format!("must be in canonical form ({})", quote(&format!("{ip}/{length}")));
            vec![FieldError::invalid(path, text, why)]
        }
        Ok(_) => Vec::new(),
    }
}

/// Warnings for blocks that [`cidr_legacy`] lets pass.
pub fn cidr_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some((ip, length)) = parse_cidr_sloppy(text) else {
        return Vec::new();
    };
    let network = masked(ip, length);
    let canonical = format!("{network}/{length}");
    let mut warnings = Vec::new();
    if network != ip {
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(text),
            quote(&canonical),
            quote(&format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }))
        ));
    }
    let address = text.split_once('/').map_or(text, |(a, _)| a);
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => {}
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let spelled = format!("{ip}/{length}");
            if warnings.is_empty() && spelled != text {
                warnings.push(format!(
                    "{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({})",
                    quote(text),
                    quote(&spelled)
                ));
            }
        }
        _ => warnings.push(format!(
            "{path}: non-standard CIDR value {} is invalid: use {}",
            quote(text),
            quote(&canonical)
        )),
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(rule: fn(&str) -> Vec<String>, texts: &[&str]) {
        for text in texts {
            assert_eq!(rule(text), Vec::<String>::new(), "{text}");
        }
    }
    fn bad(rule: fn(&str) -> Vec<String>, texts: &[&str]) {
        for text in texts {
            assert!(!rule(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn labels_subdomains_and_keys_follow_the_grammar() {
        good(dns1123_label, &["a", "0", "a-b", "a--b"]);
        bad(dns1123_label, &["", "-a", "a-", "A", "a_b", "é"]);
        good(dns1123_subdomain, &["a", "a.b-c.0"]);
        bad(dns1123_subdomain, &["", ".", "a.", ".a", "a..b", "A.b"]);
        good(dns1035_label, &["a", "a1"]);
        bad(dns1035_label, &["1a", ""]);
        good(qualified_name, &["a", "A_b.c-d", "example.com/A"]);
        bad(qualified_name, &["", "/a", "a/", "a/b/c", "A.b/", "-a"]);
        good(label_value, &["", "a", "A.b_c-d"]);
        bad(label_value, &["a ", "-a", "a/b"]);
        good(port_name, &["http", "a-1"]);
        bad(port_name, &["", "1", "a--b", "-a", "A", "sixteencharacter"]);
        good(config_map_key, &["a", "..a".get(1..).unwrap_or_default(), "_A-"]);
        bad(config_map_key, &["", ".", "..", "..a", "a b"]);
        good(relaxed_env_var, &["a", "1", "a b", "-"]);
        bad(relaxed_env_var, &["", "a=b", "é"]);
        good(percent, &["1%"]);
        bad(percent, &["%", "1", "a%"]);
    }

    #[test]
    fn a_bad_label_is_explained_in_upstreams_words() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn addresses_with_two_readings_are_refused() {
        let p = Path::new("ip");
        assert!(ip_legacy(&p, "10.0.0.1", &[]).is_empty());
        assert!(ip_legacy(&p, "FE80:0::1", &[]).is_empty());
        assert_eq!(ip_legacy(&p, "010.0.0.1", &[])[0].detail, "must not have leading 0s");
        assert!(ip_legacy(&p, "010.0.0.1", &["010.0.0.1".into()]).is_empty());
        assert_eq!(
            ip_legacy(&p, "::ffff:1.2.3.4", &[])[0].detail,
            "must not be an IPv4-mapped IPv6 address"
        );
        assert_eq!(ip(&p, "FE80::1")[0].detail, "must be in canonical form (\"fe80::1\")");
        assert_eq!(
            cidr_legacy(&p, "10.0.0.1/24", &[])[0].detail,
            "must not have bits set beyond the prefix length"
        );
        assert_eq!(
            ip_warnings(&p, "FE80::1"),
            ["ip: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")"]
        );
    }
}
