//! Continue tokens: where the next page begins, in upstream's own form, so that a list begun at one server goes on at
//! another, of either make.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde_json::json;
use steersman_schema::status::Status;

/// Reads what upstream reads: bits that are left over at the end do not matter.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// A continue token: the revision to read at and the last key given, without the resource's prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Continue {
    pub(super) revision: i64,
    pub(super) after: String,
}

impl Continue {
    pub(super) fn write(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": format!("/{}\0", self.after)});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// # Errors
    /// 400 with upstream's words for what upstream did not write.
    pub(super) fn read(text: &str) -> Result<Self, Status> {
        #[derive(serde::Deserialize)]
        struct Token {
            #[serde(default)]
            v: String,
            #[serde(default)]
            rv: i64,
            #[serde(default)]
            start: String,
        }
        let refuse = |why: String| Status::bad_request(format!("invalid continue token: {why}"));
        let generic = |why: &dyn std::fmt::Display| refuse(format!("continue key is not valid: {why}"));
        let bytes = LENIENT.decode(text).map_err(|error| generic(&error))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| generic(&error))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(refuse(format!(
                "continue key is not valid: server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            return Err(refuse(
                "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into(),
            ));
        }
        if token.start.is_empty() {
            return Err(refuse(
                "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)".into(),
            ));
        }
        let after = token.start.trim_end_matches('\0').trim_start_matches('/');
        if after
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(generic(&token.start));
        }
        Ok(Self {
            revision: token.rv,
            after: after.to_owned(),
        })
    }
}

/// The page's revision is gone: 410 with a token for the rest of the newest state.
pub(super) fn inconsistent(after: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Continue {
        revision: -1,
        after: after.to_owned(),
    }
    .write();
    status
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_continue_token_comes_back_as_it_went() {
        let token = Continue {
            revision: 42,
            after: "default/web".into(),
        };
        assert_eq!(Continue::read(&token.write()).ok(), Some(token));
    }

    #[test]
    fn tampered_tokens_are_refused() {
        let write = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for token in [
            "%%%".to_owned(),
            URL_SAFE_NO_PAD.encode("junk"),
            write(json!({"v": "v0", "rv": 1, "start": "a"})),
            write(json!({"v": "meta.k8s.io/v1", "rv": 0, "start": "a"})),
            write(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": ""})),
            write(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "../secrets/a"})),
        ] {
            assert_eq!(Continue::read(&token).map_err(|s| s.code), Err(400), "{token}");
        }
    }
}
