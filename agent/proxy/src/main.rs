//! `kube-proxy`: see the library.

use steersman_proxy::flags::Flags;
use steersman_runtime::{flags, logging, shutdown};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let given: Flags = flags::parse();
    logging::init(given.logging.v);
    if given.cleanup {
        if let Err(error) = steersman_proxy::nft::remove_tables().await {
            flags::fail(&error.to_string());
        }
        return;
    }
    let configuration = given.configuration().unwrap_or_else(|e| flags::fail(&e));
    let stop = shutdown::on_signals().unwrap_or_else(|e| flags::fail(&format!("watching signals: {e}")));
    if let Err(error) = steersman_proxy::run(configuration, stop).await {
        flags::fail(&error);
    }
}
