//! `cluster-dns`: see the library.

use steersman_dns::Flags;
use steersman_runtime::{flags, logging, shutdown};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let given: Flags = flags::parse();
    logging::init(given.logging.v);
    let stop = shutdown::on_signals().unwrap_or_else(|e| flags::fail(&format!("watching signals: {e}")));
    if let Err(error) = steersman_dns::run(given, stop).await {
        flags::fail(&error);
    }
}
