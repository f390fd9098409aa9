//! The channels between the threads of a server.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::engine::EngineEnds;
use crate::{
    handover::{ControlHandoff, HandedOff},
    hub::{EndRole, ExternalEnd, MeshEnd, MeshLimits, Wake},
    shard::ShardCommand,
};

/// The channels between the threads of a server, sorted by the threads that hold their ends.
pub(super) struct Wiring {
    pub(super) shards: Vec<ShardEnds>,
    pub(super) control: ControlEnds,
    pub(super) engines: Vec<EngineEnds>,
    /// The commands of the server's owner to each shard.
    pub(super) commands: Vec<mpsc::Sender<ShardCommand>>,
}

/// The ends that a shard holds.
pub(super) struct ShardEnds {
    pub(super) mesh: MeshEnd,
    pub(super) woken: Arc<Notify>,
    pub(super) commands: mpsc::Receiver<ShardCommand>,
    /// Connections that the control thread gives back.
    pub(super) returns: mpsc::Receiver<HandedOff>,
    /// The control thread finishes when every shard has dropped its handoff.
    pub(super) control: ControlHandoff,
}

/// The ends that the control thread holds.
pub(super) struct ControlEnds {
    pub(super) outside: ExternalEnd,
    pub(super) woken: Arc<Notify>,
    pub(super) arrivals: mpsc::Receiver<HandedOff>,
    pub(super) returns: Vec<mpsc::Sender<HandedOff>>,
}

impl Wiring {
    /// Returns the channels between the threads of a server. `roles` are those of the ends of the mesh: the shards,
    /// then the control thread, then the engines.
    pub(super) fn new(roles: &[EndRole]) -> Wiring {
        let count = roles.iter().take_while(|&&role| role == EndRole::Shard).count();
        let mut woken: Vec<Arc<Notify>> = roles.iter().map(|_| Arc::default()).collect();
        let wake = woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Arc::new(move || woken.notify_one()) as Wake
        });
        let mut mesh = MeshEnd::connect_with(wake.collect(), roles, &MeshLimits::default());
        let engines = mesh.split_off(count + 1).into_iter().zip(woken.split_off(count + 1));
        let engines = engines.map(|(mesh, woken)| EngineEnds { mesh, woken }).collect();
        let outside = ExternalEnd::new(mesh.pop().expect("one end more than shards"));
        let of_control = woken.pop().expect("one more than shards");
        let (handoff, arrivals) = ControlHandoff::new();
        let (mut shards, mut commands, mut returns) = (Vec::new(), Vec::new(), Vec::new());
        for (mesh, woken) in mesh.into_iter().zip(woken) {
            let (command, receiver) = mpsc::channel(COMMANDS_MAX);
            commands.push(command);
            let (back, returned) = mpsc::channel(RETURNS_MAX);
            returns.push(back);
            shards.push(ShardEnds { mesh, woken, commands: receiver, returns: returned, control: handoff.clone() });
        }
        let control = ControlEnds { outside, woken: of_control, arrivals, returns };
        Wiring { shards, control, engines, commands }
    }
}

/// The most connections on their way back to a shard.
const RETURNS_MAX: usize = 64;

/// The most commands on their way to a shard. `Drain` is the only command, and its repetition changes nothing.
const COMMANDS_MAX: usize = 4;
