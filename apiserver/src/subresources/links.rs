//! Links in what a proxied backend says: they lead to the backend's root, and must lead below `…/proxy` instead
//! (upstream: `apimachinery/pkg/util/proxy/transport.go`).
//!
//! Only values of attributes that hold a link are changed; every other byte stays. A page is rewritten while it passes: at most
//! [`HELD`] bytes of an unfinished tag wait. What is longer, not HTML, or encoded passes unchanged.

use std::borrow::Cow;

/// Most bytes of an unfinished tag that are kept back.
const HELD: usize = 64 * 1024;

/// Elements with the attributes that hold a link.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose text is no markup.
const RAW: &[&str] = &["script", "style", "textarea", "title"];

/// Where a backend stands, as seen by the client.
#[derive(Clone, Debug)]
pub struct Place {
    /// Path of the client's request up to and including `/proxy`.
    pub prefix: String,
    /// `host:port` of the backend.
    pub backend: String,
    /// The `Host` that the client asked.
    pub asked: String,
}

impl Place {
    /// The link as it must be for the client; nothing if it is right as it is: relative, or to somewhere else.
    pub fn link(&self, link: &str) -> Option<String> {
        let scheme = link.find(':').filter(|end| {
            let name = &link.as_bytes()[..*end];
            name.first().is_some_and(u8::is_ascii_alphabetic)
                && name.iter().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(c))
        });
        let rest = scheme.map_or(link, |end| &link[end + 1..]);
        let (host, rest) = match rest.strip_prefix("//") {
            Some(after) => after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len())),
            None => ("", rest),
        };
        if !host.is_empty() && host != self.backend && host != self.asked {
            return None;
        }
        if !rest.starts_with('/') {
            return None;
        }
        let (path, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let front = if !host.is_empty() && host == self.asked {
            &link[..link.len() - rest.len()]
        } else {
            ""
        };
        let path = if path.starts_with(&self.prefix) {
            Cow::Borrowed(path)
        } else {
            let slash = if path.ends_with('/') { "/" } else { "" };
            Cow::Owned(format!("{}{slash}", clean(&format!("{}/{path}", self.prefix))))
        };
        let new = format!("{front}{path}{tail}");
        (new != link).then_some(new)
    }
}

/// A rooted path without empty and dotted segments.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// A page under way.
#[derive(Debug)]
pub struct Page {
    place: Place,
    held: Vec<u8>,
    /// The element whose end is waited for.
    raw: Option<&'static str>,
}

impl Page {
    pub fn new(place: Place) -> Self {
        Self {
            place,
            held: Vec::new(),
            raw: None,
        }
    }

    /// What can be passed on after one more piece.
    pub fn piece(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let (out, rest) = self.scan(&held);
        if rest.len() <= HELD {
            self.held = rest.to_vec();
            return out;
        }
        // No page has such a tag.
        let mut out = out;
        out.extend_from_slice(rest);
        out
    }

    /// What was kept back when the page ends.
    pub fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Rewrites what is finished, and returns it with the rest.
    fn scan<'a>(&mut self, text: &'a [u8]) -> (Vec<u8>, &'a [u8]) {
        let mut out = Vec::with_capacity(text.len() + 128);
        let mut rest = text;
        loop {
            if let Some(name) = self.raw {
                let Some(end) = end_tag(rest, name) else {
                    // Its end may have begun.
                    let safe = rest.len().saturating_sub(name.len() + 2);
                    out.extend_from_slice(&rest[..safe]);
                    return (out, &rest[safe..]);
                };
                out.extend_from_slice(&rest[..end]);
                rest = &rest[end..];
                self.raw = None;
            }
            let Some(start) = rest.iter().position(|c| *c == b'<') else {
                out.extend_from_slice(rest);
                return (out, &[]);
            };
            out.extend_from_slice(&rest[..start]);
            rest = &rest[start..];
            let length = if rest.len() < 4 {
                None
            } else if rest.starts_with(b"<!--") {
                rest.windows(3).skip(4).position(|w| w == b"-->").map(|at| at + 7)
            } else if rest[1].is_ascii_alphabetic() {
                tag_length(rest)
            } else {
                Some(1)
            };
            let Some(length) = length else {
                return (out, rest);
            };
            let (tag, after) = rest.split_at(length);
            if tag.len() > 1 && tag[1].is_ascii_alphabetic() {
                let name = tag_name(tag);
                self.tag(tag, &name, &mut out);
                self.raw = RAW.iter().find(|raw| **raw == name).copied();
            } else {
                out.extend_from_slice(tag);
            }
            rest = after;
        }
    }

    /// Copies a start tag, with its links rewritten.
    fn tag(&self, tag: &[u8], name: &str, out: &mut Vec<u8>) {
        let Some((_, wanted)) = LINKS.iter().find(|(element, _)| *element == name) else {
            out.extend_from_slice(tag);
            return;
        };
        let mut copied = 0;
        for attribute in attributes(tag, name.len() + 1) {
            let key = String::from_utf8_lossy(&tag[attribute.name]).to_ascii_lowercase();
            if !wanted.contains(&key.as_str()) {
                continue;
            }
            let Ok(value) = std::str::from_utf8(&tag[attribute.value.clone()]) else {
                continue;
            };
            if let Some(new) = self.place.link(&value.replace("&amp;", "&")) {
                out.extend_from_slice(&tag[copied..attribute.value.start]);
                let quote: &[u8] = if attribute.quoted { b"" } else { b"\"" };
                let escaped = new.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;");
                out.extend_from_slice(quote);
                out.extend_from_slice(escaped.as_bytes());
                out.extend_from_slice(quote);
                copied = attribute.value.end;
            }
        }
        out.extend_from_slice(&tag[copied..]);
    }
}

/// Where `</name` begins.
fn end_tag(text: &[u8], name: &str) -> Option<usize> {
    let length = name.len() + 2;
    text.windows(length)
        .position(|w| w.starts_with(b"</") && w[2..].eq_ignore_ascii_case(name.as_bytes()))
}

/// Length of a tag that begins here, if it ends.
fn tag_length(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut valued = false; // a quote opens only where a value may begin
    for (at, character) in text.iter().enumerate() {
        match (quote, *character) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return Some(at + 1),
            (None, c @ (b'"' | b'\'')) if valued => quote = Some(c),
            (None, b'=') => valued = true,
            (None, c) if c.is_ascii_whitespace() => {}
            (None, _) => valued = false,
        }
    }
    None
}

fn tag_name(tag: &[u8]) -> String {
    let name = tag
        .iter()
        .skip(1)
        .take_while(|c| !c.is_ascii_whitespace() && !b"/>".contains(c));
    name.map(|c| char::from(c.to_ascii_lowercase())).collect()
}

/// Where an attribute stands in its tag.
struct Attribute {
    name: std::ops::Range<usize>,
    /// Without quotes.
    value: std::ops::Range<usize>,
    quoted: bool,
}

/// The attributes of a start tag that have values.
fn attributes(tag: &[u8], mut at: usize) -> Vec<Attribute> {
    let end = tag.len().saturating_sub(1); // the closing >
    let skip = |mut at: usize, keep: &dyn Fn(u8) -> bool| {
        while at < end && keep(tag[at]) {
            at += 1;
        }
        at
    };
    let blank = |c: u8| c.is_ascii_whitespace();
    let mut found = Vec::new();
    loop {
        at = skip(at, &|c| blank(c) || c == b'/');
        if at >= end {
            return found;
        }
        let name = at..skip(at + 1, &|c| !blank(c) && c != b'=' && c != b'/');
        at = skip(name.end, &blank);
        if at >= end || tag[at] != b'=' {
            continue;
        }
        at = skip(at + 1, &blank);
        let quote = tag.get(at).copied().filter(|c| at < end && b"\"'".contains(c));
        let value = match quote {
            Some(quote) => at + 1..skip(at + 1, &|c| c != quote),
            None => at..skip(at, &|c| !blank(c)),
        };
        at = value.end + usize::from(quote.is_some());
        found.push(Attribute {
            name,
            value,
            quoted: quote.is_some(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            prefix: "/api/v1/namespaces/n/pods/p:80/proxy".to_owned(),
            backend: "10.1.2.3:80".to_owned(),
            asked: "api.example:6443".to_owned(),
        }
    }

    fn page(text: &str) -> String {
        let mut page = Page::new(place());
        let mut out = page.piece(text.as_bytes());
        out.extend(page.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_to_the_backends_root_lead_below_the_proxy() {
        let link = |link: &str| place().link(link).unwrap_or_else(|| link.to_owned());
        let below = |path: &str| format!("/api/v1/namespaces/n/pods/p:80/proxy{path}");
        assert_eq!(link("/a/b?c=/d#e"), below("/a/b?c=/d#e"));
        assert_eq!(link("/a/"), below("/a/"));
        assert_eq!(link("http://10.1.2.3:80/a"), below("/a"));
        assert_eq!(link("//10.1.2.3:80/a"), below("/a"));
        assert_eq!(
            link("https://api.example:6443/a"),
            format!("https://api.example:6443{}", below("/a"))
        );
        for same in [
            "a/b",
            "",
            "#top",
            "?q",
            "http://elsewhere/a",
            "mailto:a@b",
            "//elsewhere/x",
            &below("/a"),
        ] {
            assert_eq!(link(same), same);
        }
        assert_eq!(
            link("/../../x"),
            "/api/v1/namespaces/n/pods/x",
            "as upstream's path.Join has it"
        );
    }

    #[test]
    fn only_attributes_that_hold_links_change() {
        let below = "/api/v1/namespaces/n/pods/p:80/proxy";
        assert_eq!(
            page(r#"<a href="/rewriteme">test</a>"#),
            format!(r#"<a href="{below}/rewriteme">test</a>"#)
        );
        assert_eq!(
            page("<A class=x HREF='/a?b&amp;c' >"),
            format!("<A class=x HREF='{below}/a?b&amp;c' >")
        );
        assert_eq!(
            page("<img src=/i.png alt=/x>"),
            format!("<img src=\"{below}/i.png\" alt=/x>")
        );
        assert_eq!(
            page("<a title=\"a > b\" href = \"/x\">"),
            format!("<a title=\"a > b\" href = \"{below}/x\">")
        );
        for same in [
            "<p data-href=\"/x\">1 < 2 <!-- <a href=\"/x\"> --> href=\"/x\"</p>",
            "<script>if (a<b) { s = '<a href=\"/x\">' }</script>",
            "<a href=\"x\">",
            "<",
            "<a href=\"/unfinished",
            "<!doctype html>",
        ] {
            assert_eq!(page(same), same);
        }
        assert_eq!(
            page("<title><a href=/x></title><a href=/y>"),
            format!("<title><a href=/x></title><a href=\"{below}/y\">")
        );
    }

    #[test]
    fn a_page_comes_out_the_same_however_it_is_cut() {
        let text = "<!doctype html><a href=\"/x\">1 < 2</a><!-- <a href=/y> --><script src='/s'>'<a href=/z>'</script>\
                    <img src=/i alt=\"a > b\"><style>a{}</style><a href='http://10.1.2.3:80/q?a&amp;b'>";
        let whole = page(text);
        assert_eq!(whole.matches("/proxy/").count(), 4, "{whole}");
        for cut in 1..=text.len() {
            let mut page = Page::new(place());
            let mut out: Vec<u8> = text
                .as_bytes()
                .chunks(cut)
                .flat_map(|piece| page.piece(piece))
                .collect();
            out.extend(page.end());
            assert_eq!(String::from_utf8(out).unwrap(), whole, "in pieces of {cut}");
        }
    }
}
