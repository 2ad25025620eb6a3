//! CertificateSigning: putting a certificate (or conditions) into a signing request needs the verb `sign` on its signer.

use std::sync::Arc;

use steersman_auth::Authorizer;
use steersman_auth::lister::{items, text};
use steersman_schema::status::Status;

use crate::certificates::{about, may};
use crate::{Operation, Plugin, Request, Surroundings};

struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(CertificateSigning {
        authorizer: around.authorizer.clone(),
    })
}

#[async_trait::async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        let (Some(new), Some(old)) = (&request.object, request.old.as_deref()) else {
            return Ok(());
        };
        let same = text(new, "/status/certificate") == text(old, "/status/certificate")
            && items(new, "/status/conditions") == items(old, "/status/conditions");
        let signer = text(old, "/spec/signerName");
        if !about(request, "status") || same || may(self.authorizer.as_ref(), &request.user, "sign", signer) {
            return Ok(());
        }
        Err(Box::new(request.forbidden(format!(
            "user not permitted to sign requests with signerName {signer:?}"
        ))))
    }
}
