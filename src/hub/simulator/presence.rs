//! Members that join, leave and come back on several shards, while the rules of their topic are replaced: at rest the
//! list is exactly who is subscribed, and the events from any list on lead to it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::Value;

use super::world::next;
use crate::{
    hub::{
        AudienceId, ConnectionId, EndRole, HubConnection, HubLimits, MemberInfo, MeshEnd, MeshLimits, Permission,
        Presence, RulesOfTopics, ShardHub, SubscribeOptions, TopicName, TopicRule, TopicTable, Wake, seeds::each_seed,
        testing::texts,
    },
    proto::Millis,
};

/// Some shards, and connections that use one topic.
struct World {
    random: u64,
    now: Vec<u64>,
    hubs: Vec<ShardHub>,
    rules: RulesOfTopics,
    room: TopicName,
    /// The member that each connection counts for, and the number of its info.
    people: HashMap<ConnectionId, Option<(usize, usize)>>,
    /// The most members whose names are told.
    named_max: u64,
    /// The connection that is told of joins and leaves.
    watcher: ConnectionId,
    events: Vec<Value>,
}

/// A list of members: for each id the number of its subscriptions, and its info.
type List = BTreeMap<String, (u32, String)>;

impl World {
    fn new(seed: u64) -> World {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let shards = 1 + next(&mut random, 4);
        let limits = MeshLimits {
            lane_entries_max: 1 + next(&mut random, 4),
            overflow_bytes_max: next(&mut random, 2_000),
            ..MeshLimits::default()
        };
        let roles = vec![EndRole::Shard; shards];
        let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
        let named_max = if seed.is_multiple_of(3) { 3 } else { 100 };
        let rules = RulesOfTopics::of_table(table(named_max));
        let hub = |mesh| {
            let limits = HubLimits { topics_idle_max: 0, ..HubLimits::default() };
            let mut hub: ShardHub = ShardHub::new(mesh, limits, 1_000).with_topic_rules(rules.clone());
            hub.connections.let_rest(0);
            hub
        };
        let mut hubs: Vec<ShardHub> = MeshEnd::connect_with(wake, &roles, &limits).into_iter().map(hub).collect();
        let room = TopicName::new(&format!("room/{seed}")).unwrap();
        let at = next(&mut random, shards);
        let watcher = hubs[at].connections.insert(HubConnection::new(())).unwrap();
        hubs[at].subscribe(watcher, &room, SubscribeOptions::default().presence());
        let people = HashMap::from([(watcher, None)]);
        World { random, now: vec![0; shards], hubs, rules, room, people, named_max, watcher, events: Vec::new() }
    }

    fn pick(&mut self, below: usize) -> usize {
        next(&mut self.random, below)
    }

    fn someone(&mut self) -> Option<(usize, usize)> {
        let (id, info) = (self.pick(7), self.pick(3));
        (id > 0).then_some((id, info))
    }

    /// Makes a random step.
    fn step(&mut self) {
        let shard = self.pick(self.hubs.len());
        match self.pick(20) {
            0..4 => {
                let person = self.someone();
                let id = self.hubs[shard].connections.insert(HubConnection::new(())).unwrap();
                self.hubs[shard].subscribe(id, &self.room, SubscribeOptions::default());
                self.people.insert(id, person);
            }
            4..7 => {
                if let Some(id) = self.pick_one() {
                    self.people.remove(&id);
                    self.hubs[usize::from(id.shard())].remove(id);
                }
            }
            7 => {
                if let Some(id) = self.pick_one() {
                    let hub = &mut self.hubs[usize::from(id.shard())];
                    hub.unsubscribe(id, &self.room);
                    hub.subscribe(id, &self.room, SubscribeOptions::default());
                }
            }
            8 => {
                if let Some(id) = self.pick_one() {
                    let person = self.someone();
                    self.people.insert(id, person);
                    self.hubs[usize::from(id.shard())].renew_member(id);
                }
            }
            9 => match self.pick(6) {
                0 => self.rules.replace(TopicTable::default()),
                _ => self.rules.replace(table(self.named_max)),
            },
            10..14 => {
                self.now[shard] += self.pick(60) as u64;
                self.hubs[shard].note_time(Millis(self.now[shard]));
            }
            _ => self.turn(shard),
        }
    }

    fn pick_one(&mut self) -> Option<ConnectionId> {
        let mut others: Vec<ConnectionId> = self.people.keys().copied().filter(|id| *id != self.watcher).collect();
        others.sort_unstable();
        if others.is_empty() { None } else { Some(others[self.pick(others.len())]) }
    }

    /// Runs a turn of a shard, which takes some of its mail.
    fn turn(&mut self, shard: usize) {
        for _ in 0..self.pick(4) {
            self.hubs[shard].take_request(&mut Vec::new());
            self.hubs[shard].take_delivery(&mut Vec::new());
        }
        let hub = &mut self.hubs[shard];
        hub.sweep_presence();
        for (id, topic) in hub.take_newcomers() {
            if let Some(person) = self.people.get(&id) {
                hub.attend(id, topic, person.map(about));
            }
        }
        hub.advance_presence();
        hub.send_out();
        let mut walks: Vec<AudienceId> = Vec::new();
        hub.take_due(&mut walks);
        for walk in walks {
            while let Some(slot) = hub.next_member(walk) {
                let owed = hub.owed_by_walk(walk, slot);
                assert_eq!(hub.connections.id_at(slot), Some(self.watcher), "only the watcher is told");
                let read = |text: &String| serde_json::from_str::<Value>(text).unwrap()["presence_changed"].clone();
                self.events.extend(texts(&owed.pieces).iter().map(read));
            }
            hub.end_walk(walk);
        }
    }

    /// Lets everything come to rest: all news have come, and all who are gone have left.
    fn settle(&mut self) {
        self.rules.replace(table(self.named_max));
        for _ in 0..120 {
            for shard in 0..self.hubs.len() {
                self.now[shard] += 10;
                self.hubs[shard].note_time(Millis(self.now[shard]));
                for _ in 0..6 {
                    self.turn(shard);
                }
            }
        }
    }

    fn presence(&mut self) -> Presence {
        let home = usize::from(self.hubs[0].home(&self.room));
        self.hubs[home].presence(&self.room, true).expect("the rule keeps presence")
    }

    /// Checks that the list is exactly who is subscribed, and returns it.
    fn check(&mut self) -> (u64, List) {
        let presence = self.presence();
        let list = listed(&presence);
        let mut expected: BTreeMap<String, u32> = BTreeMap::new();
        self.people.values().flatten().for_each(|(id, _)| *expected.entry(id.to_string()).or_default() += 1);
        let counts = |list: &List| list.iter().map(|(id, (count, _))| (id.clone(), *count)).collect::<BTreeMap<_, _>>();
        assert_eq!(counts(&list), expected);
        assert_eq!(presence.anonymous, self.people.values().filter(|person| person.is_none()).count() as u64);
        assert_eq!((presence.count, presence.unlisted()), (expected.len() as u64, 0));
        (presence.version, list)
    }
}

fn table(named_max: u64) -> TopicTable {
    let rule = TopicRule::new(["room/*".parse().unwrap()]).presence(Permission::Admitted);
    TopicTable::new([&rule.leave_delay_ms(200).presence_events_max_members(named_max)]).unwrap()
}

fn about((id, info): (usize, usize)) -> MemberInfo {
    MemberInfo::new(&id.to_string(), Some(&info.to_string().into()))
}

fn listed(presence: &Presence) -> List {
    let row = |member: &crate::hub::Member| {
        let info = member.info.as_deref().unwrap_or_default().to_owned();
        (member.id.to_string(), (member.connections, info))
    };
    presence.members.iter().map(row).collect()
}

#[test]
fn the_list_is_who_is_subscribed() {
    let run = |seed| {
        let mut world = World::new(seed);
        (0..150).for_each(|_| world.step());
        world.settle();
        // From this list on, the events of the topic lead to any later one.
        let (version, mut list) = world.check();
        let mut named = true;
        (0..250).for_each(|_| world.step());
        world.settle();
        let (_, expected) = world.check();
        let mut last = version;
        for event in &world.events {
            let number = event["version"].as_u64().unwrap();
            if number <= version {
                continue;
            }
            assert!(number >= last, "versions grow");
            last = number;
            let (Some(joined), Some(left)) = (event["joined"].as_array(), event["left"].as_array()) else {
                assert!(world.named_max < 100, "few members are told by name");
                named = false;
                continue;
            };
            for member in joined {
                list.insert(member["id"].as_str().unwrap().into(), (0, member["info"].to_string()));
            }
            left.iter().for_each(|id| _ = list.remove(id.as_str().unwrap()));
            assert!(!named || event["count"] == list.len(), "{event} leads to {list:?}");
        }
        if named {
            let infos = |list: &List| list.iter().map(|(id, (_, info))| (id.clone(), info.clone())).collect::<Vec<_>>();
            assert_eq!(infos(&list), infos(&expected), "seed {seed}");
        }
        assert!(world.events.len() <= world.now.iter().max().map_or(0, |now| *now as usize / 100 + 1));
        // Nobody is there, and nothing is kept.
        for id in world.people.keys().copied().collect::<Vec<_>>() {
            world.hubs[usize::from(id.shard())].remove(id);
        }
        world.people.clear();
        world.settle();
        assert!(world.hubs.iter().all(|hub| hub.presence_bytes() == 0 && hub.next_presence().is_none()));
        assert!(world.hubs.iter().all(|hub| hub.topics() == 0), "seed {seed}");
        (world.events.len(), usize::from(named))
    };
    let (mut events, mut named) = (0, 0);
    each_seed("hub::simulator::presence", 300, run, |(more, is_named)| {
        events += more;
        named += is_named;
    });
    assert!(events > 3_000 && named > 150, "{events} events, {named} runs by name");
}
