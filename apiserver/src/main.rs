//! `kube-apiserver`: reads flags, builds the server, serves until told to stop.

use std::process::ExitCode;

use steersman_apiserver::app::{self, App, StartError};
use steersman_apiserver::flags::Options;

/// Objects live in memory here, of every size and for every time: this allocator gives freed pages back, glibc's keeps
/// them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = match Options::parse_args(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(line) => return fail(&StartError(line)),
    };
    steersman_apiserver::logging::init(&options.logs);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&StartError(format!("cannot start threads: {error}"))),
    };
    let code = runtime.block_on(async {
        match start(options).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    });
    runtime.shutdown_background();
    code
}

fn fail(error: &StartError) -> ExitCode {
    eprintln!("Error: {error}");
    ExitCode::FAILURE
}

async fn start(options: Options) -> Result<(), StartError> {
    let faults = options.validate();
    if !faults.is_empty() {
        return Err(StartError(faults.join(", ")));
    }
    let store = app::etcd(&options)?;
    let app = App::build(options, store).await?;
    if let Some(address) = app.address() {
        tracing::info!(%address, "serving securely");
    }
    app.run(signals()).await;
    Ok(())
}

/// Returns at the first SIGTERM or SIGINT; a second one ends the process at once.
async fn signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(1);
    });
}
