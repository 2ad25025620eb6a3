//! CertificateApproval: approving or denying a signing request needs the verb `approve` on its signer.

use std::sync::Arc;

use steersman_auth::Authorizer;
use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::certificates::{about, may};
use crate::{Operation, Plugin, Request, Surroundings};

struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(CertificateApproval {
        authorizer: around.authorizer.clone(),
    })
}

#[async_trait::async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        if !about(request, "approval") {
            return Ok(());
        }
        // The stored signer counts, whatever the update says.
        let signer = request
            .old
            .as_deref()
            .map(|o| text(o, "/spec/signerName"))
            .unwrap_or_default();
        if may(self.authorizer.as_ref(), &request.user, "approve", signer) {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(Box::new(request.forbidden(why)))
    }
}
