//! How long the runtime's own calls for one small pod take: the floor under "create to Running".
//!
//! usage: bare ENDPOINT IMAGE N   (the image must be on the node; the sandbox goes to the network that CNI gives it)

use std::time::{Duration, Instant};

use steersman_cri::{Client, Runtime, v1};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, image, rounds] = args.as_slice() else {
        return Err("usage: bare ENDPOINT IMAGE N".into());
    };
    let client = Client::new(endpoint, Duration::from_secs(120))?;
    let id = client.image_status(image).await?.ok_or("the image is not here")?.id;
    let mut all: Vec<[Duration; 3]> = Vec::new();
    for round in 0..rounds.parse()? {
        let uid = format!("bare-{}-{round}", std::process::id());
        let sandbox_config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: uid.clone(),
                uid,
                namespace: "bare".into(),
                attempt: 0,
            }),
            linux: Some(v1::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "c".into(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: id.clone(),
                ..Default::default()
            }),
            command: vec!["sleep".into(), "3600".into()],
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let begun = Instant::now();
        let sandbox = client.run_sandbox(sandbox_config.clone(), "").await?;
        let ran = begun.elapsed();
        let container = client.create_container(&sandbox, config, sandbox_config).await?;
        let created = begun.elapsed();
        client.start_container(&container).await?;
        let started = begun.elapsed();
        client.stop_sandbox(&sandbox).await?;
        client.remove_sandbox(&sandbox).await?;
        all.push([ran, created.saturating_sub(ran), started]);
    }
    for (i, what) in ["RunPodSandbox", "CreateContainer", "all three calls"]
        .iter()
        .enumerate()
    {
        let mut times: Vec<Duration> = all.iter().map(|t| t[i]).collect();
        times.sort();
        if let (Some(first), Some(middle), Some(last)) = (times.first(), times.get(times.len() / 2), times.last()) {
            println!(
                "{what}: min {} p50 {} max {} ms",
                first.as_millis(),
                middle.as_millis(),
                last.as_millis()
            );
        }
    }
    Ok(())
}
