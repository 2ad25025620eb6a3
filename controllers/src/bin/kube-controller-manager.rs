//! The controller manager: see [`steersman_controllers`].

fn main() {
    steersman_controllers::app::main();
}
