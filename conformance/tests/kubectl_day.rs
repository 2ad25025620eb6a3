//! A day with stock kubectl, word for word: the transcripts of `transcripts/`, whose outputs were recorded against upstream.

use steersman_conformance::transcript::play;
use steersman_conformance::{Cluster, Nodes};

/// A test per transcript, so that they run side by side.
macro_rules! transcripts {
    ($($test:ident: $file:literal,)*) => {$(
        #[test]
        fn $test() {
            play($file);
        }
    )*};
}

transcripts! {
    every_create_makes_what_upstreams_makes: "create",
    everything_is_exposed_and_reached_through_a_service: "expose",
    logs_of_several_containers_and_of_earlier_ones: "logs",
    streams_of_containers_are_attached_to_executed_and_copied: "attach",
    pods_are_run_and_debugged: "run",
    rollouts_are_paused_undone_and_restarted: "rollout",
    fields_are_set_and_replicas_scaled: "set",
    objects_are_applied_edited_labelled_and_replaced: "change",
    deletion_cascades_and_waits_as_asked: "delete",
    every_wait_ends_and_events_are_listed: "wait",
    get_has_every_output_order_and_selection: "get",
    streams_go_over_websocket_and_over_spdy: "streams",
    the_cluster_explains_itself_and_signs_certificates: "cluster",
}

#[test]
fn nodes_are_cordoned_tainted_and_drained() {
    let _mine = Nodes::added(&Cluster::here());
    play("nodes");
}
