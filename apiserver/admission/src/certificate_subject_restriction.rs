//! CertificateSubjectRestriction: nobody becomes `system:masters` by a signing request.

use std::sync::Arc;

use steersman_auth::lister::text;
use steersman_auth::user::MASTERS;
use steersman_schema::status::Status;

use crate::certificates::{CLIENT_SIGNER, about, csr_subject};
use crate::{Operation, Plugin, Request, Surroundings};

struct CertificateSubjectRestriction;

pub(crate) fn build(_: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(CertificateSubjectRestriction)
}

#[async_trait::async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        let Some(object) = request.object.as_ref().filter(|_| about(request, "")) else {
            return Ok(());
        };
        if text(object, "/spec/signerName") != CLIENT_SIGNER {
            return Ok(());
        }
        let subject =
            csr_subject(object).map_err(|why| Box::new(request.forbidden(format!("failed to parse CSR: {why}"))))?;
        if subject.organizations.iter().any(|group| group == MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(Box::new(request.forbidden(why)));
        }
        Ok(())
    }
}
