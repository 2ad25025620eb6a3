//! `kubelet`: see [`steersman_agent`].

use steersman_agent::app::{self, Flags};
use steersman_runtime::{flags, logging};

fn main() {
    let parsed: Flags = flags::parse();
    logging::init(parsed.v);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => flags::fail(&format!("starting the executor: {e}")),
    };
    let result = runtime.block_on(app::run(parsed));
    // Blocking tasks (a hanging mount) must not keep the program from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    if let Err(e) = result {
        flags::fail(&e);
    }
}
