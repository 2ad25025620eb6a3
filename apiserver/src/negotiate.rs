//! Which encoding a client sends and which it wants back (upstream: `handlers/negotiation`).

use http::{HeaderMap, header};
use steersman_schema::codec::MediaType;
use steersman_schema::status::Status;

use crate::query::Query;

const ACCEPTED: [(MediaType, &str, &str); 3] = [
    (MediaType::Json, "application", "json"),
    (MediaType::Yaml, "application", "yaml"),
    (MediaType::Protobuf, "application", "vnd.kubernetes.protobuf"),
];
/// The list in a 406 or 415.
pub const MEDIA_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const STREAM_TYPES: &[&str] = &[
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// What the client wants instead of the object itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    None,
    Table(MetaVersion),
    PartialObjectMetadata(MetaVersion),
    PartialObjectMetadataList(MetaVersion),
}

/// Version of meta.k8s.io for a [`Transform`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    V1,
    V1beta1,
}

impl MetaVersion {
    /// The `apiVersion` of what is sent.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// What the answer looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub media: MediaType,
    /// Indented JSON.
    pub pretty: bool,
    pub transform: Transform,
    /// `Accept-Encoding` admits gzip.
    pub gzip: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            media: MediaType::Json,
            pretty: false,
            transform: Transform::None,
            gzip: false,
        }
    }
}

/// One element of an `Accept` header.
struct Clause {
    kind: String,
    subtype: String,
    parameters: Vec<(String, String)>,
    quality: f32,
}

impl Clause {
    fn is(&self, kind: &str, subtype: &str) -> bool {
        (self.kind == kind && (self.subtype == subtype || self.subtype == "*"))
            || (self.kind == "*" && self.subtype == "*")
    }

    /// Whether it asks for something else than the object itself.
    fn converts(&self) -> bool {
        self.parameters
            .iter()
            .any(|(key, _)| matches!(key.as_str(), "as" | "g" | "v"))
    }
}

/// The name of a media type on the wire.
pub fn content_type(media: MediaType) -> &'static str {
    match media {
        MediaType::Json => "application/json",
        MediaType::Yaml => "application/yaml",
        MediaType::Protobuf => "application/vnd.kubernetes.protobuf",
    }
}

/// Chooses the encoding of a resource's answer.
///
/// # Errors
/// 406 when nothing the client accepts can be made.
pub fn output(headers: &HeaderMap, query: &Query, stream: bool) -> Result<Output, Status> {
    choose(headers, query, stream, true)
}

/// [`output`] for what has no columns: a `Table` is no way to answer.
///
/// # Errors
/// 406 when nothing the client accepts can be made.
pub fn output_without_table(headers: &HeaderMap, query: &Query) -> Result<Output, Status> {
    choose(headers, query, false, false)
}

fn choose(headers: &HeaderMap, query: &Query, stream: bool, tables: bool) -> Result<Output, Status> {
    let header = joined(headers, header::ACCEPT);
    let mut output = Output {
        gzip: accepts_gzip(headers),
        pretty: pretty(headers, query),
        ..Output::default()
    };
    if header.is_empty() {
        return Ok(output);
    }
    for clause in clauses(&header) {
        for (media, kind, subtype) in ACCEPTED {
            if clause.is(kind, subtype)
                && let Some((transform, pretty)) = options(&clause, media)
                && (tables || !matches!(transform, Transform::Table(_)))
            {
                if stream && media == MediaType::Yaml {
                    return Err(Status::not_acceptable(STREAM_TYPES));
                }
                output.media = media;
                output.transform = transform;
                output.pretty |= pretty;
                return Ok(output);
            }
        }
    }
    let any = clauses(&header)
        .iter()
        .any(|clause| ACCEPTED.iter().any(|(_, kind, subtype)| clause.is(kind, subtype)));
    if !any {
        // Upstream's router refuses before the resource is asked.
        let mut status = Status::new(
            406,
            "NotAcceptable",
            format!(
                "406: Not Acceptable\n\nAvailable representations: {}",
                MEDIA_TYPES.join(", ")
            ),
        );
        status.details = Some(Box::default());
        return Err(status);
    }
    Err(Status::not_acceptable(if stream { STREAM_TYPES } else { MEDIA_TYPES }))
}

/// Chooses the encoding of a refusal: whatever comes closest, JSON when nothing does.
pub fn output_of_refusal(headers: &HeaderMap, query: &Query) -> Output {
    let header = joined(headers, header::ACCEPT);
    let media = clauses(&header)
        .iter()
        .find_map(|clause| {
            ACCEPTED
                .iter()
                .find(|(_, kind, subtype)| clause.is(kind, subtype) && !clause.converts())
                .map(|found| found.0)
        })
        .unwrap_or(MediaType::Json);
    Output {
        media,
        pretty: pretty(headers, query),
        transform: Transform::None,
        gzip: false,
    }
}

/// Whether the client accepts this kind of discovery document, looking at its list in order of preference.
/// `None`: nothing that discovery can make.
pub fn discovery(headers: &HeaderMap) -> Option<Discovery> {
    let header = joined(headers, header::ACCEPT);
    if header.is_empty() {
        return Some(Discovery::Legacy(MediaType::Json));
    }
    for clause in clauses(&header) {
        let parameter = |key: &str| {
            clause
                .parameters
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.as_str())
        };
        let media = ACCEPTED.iter().find(|(_, kind, subtype)| {
            (clause.kind == *kind && (clause.subtype == *subtype || clause.subtype == "*"))
                || (clause.kind == "*" && clause.subtype == "*")
        });
        let Some((media, ..)) = media else { continue };
        match (parameter("g"), parameter("v"), parameter("as")) {
            (None, None, None) => return Some(Discovery::Legacy(*media)),
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) if *media != MediaType::Yaml => {
                return Some(Discovery::Aggregated(*media));
            }
            _ => {}
        }
    }
    None
}

/// The two forms of a discovery document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    Legacy(MediaType),
    Aggregated(MediaType),
}

/// Reads `Content-Type`; absent is JSON.
///
/// # Errors
/// 415 for anything else than the three encodings.
pub fn input(headers: &HeaderMap) -> Result<MediaType, Status> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(MediaType::Json);
    };
    let value = value.to_str().unwrap_or("?");
    if value.is_empty() {
        return Ok(MediaType::Json);
    }
    let name = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ACCEPTED
        .iter()
        .find(|(_, kind, subtype)| name.split_once('/') == Some((*kind, *subtype)))
        .map(|found| found.0)
        .ok_or_else(|| Status::unsupported_media_type(MEDIA_TYPES))
}

/// Reads a clause's parameters; `None` when one of them cannot be obeyed.
fn options(clause: &Clause, media: MediaType) -> Option<(Transform, bool)> {
    let (mut group, mut version, mut kind, mut pretty) = ("", "", "", false);
    for (key, value) in &clause.parameters {
        match key.as_str() {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            "stream" if !value.is_empty() && (value != "watch" || media == MediaType::Yaml) => return None,
            "sv" if !value.is_empty() => return None,
            "pretty" => pretty = value == "1",
            _ => {}
        }
    }
    if kind.is_empty() && group.is_empty() && version.is_empty() {
        return Some((Transform::None, pretty));
    }
    let meta = match (group, version) {
        ("meta.k8s.io", "v1") => MetaVersion::V1,
        ("meta.k8s.io", "v1beta1") => MetaVersion::V1beta1,
        _ => return None,
    };
    let transform = match kind {
        "Table" if media != MediaType::Protobuf => Transform::Table(meta),
        "PartialObjectMetadata" => Transform::PartialObjectMetadata(meta),
        "PartialObjectMetadataList" => Transform::PartialObjectMetadataList(meta),
        _ => return None,
    };
    Some((transform, pretty))
}

fn joined(headers: &HeaderMap, name: http::HeaderName) -> String {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    values.join(",")
}

/// The elements of an `Accept` header, most wanted first. At most 32 are looked at.
fn clauses(header: &str) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = header
        .split(',')
        .take(32)
        .filter_map(|text| {
            let mut pieces = text.split(';').map(str::trim);
            let (kind, subtype) = match pieces.next()?.split_once('/') {
                Some((kind, subtype)) => (kind.trim(), subtype.trim()),
                None => return None,
            };
            let mut quality = 1.0;
            let mut parameters = Vec::new();
            for piece in pieces {
                let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
                let value = value.trim().trim_matches('"');
                if key.trim() == "q" {
                    quality = value.parse::<f32>().ok().filter(|q| q.is_finite()).unwrap_or(1.0);
                } else {
                    parameters.push((key.trim().to_owned(), value.to_owned()));
                }
            }
            Some(Clause {
                kind: kind.to_ascii_lowercase(),
                subtype: subtype.to_ascii_lowercase(),
                parameters,
                quality,
            })
        })
        .collect();
    let rank = |clause: &Clause| u8::from(clause.kind == "*") + u8::from(clause.subtype == "*");
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(rank(a).cmp(&rank(b))));
    clauses
}

/// Whether `Accept-Encoding` names gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    joined(headers, header::ACCEPT_ENCODING)
        .split(',')
        .any(|name| name.split(';').next().unwrap_or_default().trim() == "gzip")
}

/// Whether a person reads the answer: `?pretty`, or a browser or command-line tool.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(value) = query.get("pretty").filter(|value| !value.is_empty()) {
        return matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|known| agent.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: http::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("header"));
        headers
    }

    #[test]
    fn what_has_no_columns_is_no_table() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let chosen = |accept: &str| output_without_table(&with(header::ACCEPT, accept), &Query::default());
        assert_eq!(chosen(table).expect_err("refused").code, 406);
        let output = chosen(&format!("{table},application/json")).expect("the next best");
        assert_eq!(output.transform, Transform::None);
    }

    #[test]
    fn the_best_encoding_that_can_be_made_is_chosen() {
        let table = Transform::Table(MetaVersion::V1);
        let cases = [
            ("", MediaType::Json, Transform::None),
            ("*/*", MediaType::Json, Transform::None),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                MediaType::Protobuf,
                Transform::None,
            ),
            (
                "application/json;q=0.5, application/yaml",
                MediaType::Yaml,
                Transform::None,
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                MediaType::Json,
                table,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                MediaType::Json,
                Transform::None,
            ),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/yaml",
                MediaType::Yaml,
                Transform::None,
            ),
        ];
        for (accept, media, transform) in cases {
            let got = output(&with(header::ACCEPT, accept), &Query::default(), false).expect(accept);
            assert_eq!((got.media, got.transform), (media, transform), "{accept}");
        }
        let refused = output(&with(header::ACCEPT, "text/html"), &Query::default(), false).expect_err("html");
        assert_eq!(refused.code, 406);
    }

    #[test]
    fn content_types_other_than_the_three_are_refused() {
        assert_eq!(input(&HeaderMap::new()), Ok(MediaType::Json));
        assert_eq!(
            input(&with(header::CONTENT_TYPE, "application/json; charset=utf-8")),
            Ok(MediaType::Json)
        );
        assert_eq!(
            input(&with(header::CONTENT_TYPE, "text/plain")).map_err(|s| s.code),
            Err(415)
        );
    }

    #[test]
    fn kubectls_discovery_header_gets_the_aggregated_form() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(
            discovery(&with(header::ACCEPT, accept)),
            Some(Discovery::Aggregated(MediaType::Json))
        );
        assert_eq!(
            discovery(&with(header::ACCEPT, "application/json")),
            Some(Discovery::Legacy(MediaType::Json))
        );
        assert_eq!(discovery(&with(header::ACCEPT, "text/html")), None);
    }
}
