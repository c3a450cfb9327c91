//! One function a mode: what is broken, how often.

use crate::kafka::{self, Daemon, until};
use crate::rig::{Outcome, Rig, admin, broker, make_topic, message, partition, sleep_ms};
use pelton::runtime::Failpoint;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminOptions;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// The modes, with how many faults each makes by default.
pub const ALL: [(&str, u32); 9] = [
    ("kills", 60),
    ("failpoints", 30),
    ("members", 40),
    ("zombies", 12),
    ("transactions", 30),
    ("recreate", 8),
    ("broker-restarts", 10),
    ("brokers-down", 2),
    ("leaders", 12),
];
const PATIENCE: Duration = Duration::from_secs(180);
const SEED: u64 = 20_261_122;

pub async fn run(mode: &str, times: Option<u32>) -> Option<Outcome> {
    let times = times.or(ALL.iter().find(|(name, _)| *name == mode).map(|(_, times)| *times))?;
    Some(match mode {
        "kills" => kills(times).await,
        "failpoints" => failpoints(times).await,
        "members" => members(times).await,
        "zombies" => zombies(times).await,
        "transactions" => transactions(times).await,
        "recreate" => recreate(times).await,
        "broker-restarts" => broker_restarts(times).await,
        "brokers-down" => brokers_down(times).await,
        "leaders" => leaders(times).await,
        _ => return None,
    })
}

/// SIGKILL at random, one daemon after another.
async fn kills(times: u32) -> Outcome {
    let rig = Rig::new("soak-kills", 6).await;
    let (config, load) = (rig.daemon("d1"), rig.load(0));
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for _ in 0..times {
        let mut daemon = Daemon::start(&config);
        sleep_ms(random.random_range(300..4000)).await;
        daemon.assert_alive(&config);
        daemon.kill();
    }
    rig.finish(times.into(), load.end(), 0).await
}

/// SIGKILL at each named point, at visit after visit, with a second member that comes and goes.
async fn failpoints(times: u32) -> Outcome {
    let rig = Rig::new("soak-failpoints", 6).await;
    // Without an instance id it leaves the group when it stops, so that partitions move each time.
    let (armed, other) = (rig.daemon("armed"), rig.plain("other"));
    let load = rig.load(0);
    for round in 0..times {
        let point = INGEST[round as usize % INGEST.len()];
        let visit = 1 + round / u32::try_from(INGEST.len()).unwrap();
        let mut daemon = Daemon::start_with(&armed, &[("PELTON_FAILPOINT", &format!("{point}:{visit}"))]);
        until(&format!("a crash at {point}, visit {visit}"), PATIENCE, async || {
            if matches!(point, Failpoint::InRevoke | Failpoint::InAssign) {
                // Each time that the other one comes or goes, partitions move.
                let joins = Daemon::start(&other);
                sleep_ms(2500).await;
                assert!(joins.stop().success());
            }
            daemon.ended().is_some()
        })
        .await;
        assert_eq!(daemon.ended().unwrap().signal(), Some(9), "{point}: it ended otherwise");
    }
    rig.finish(times.into(), load.end(), 0).await
}

const INGEST: [Failpoint; 6] = [
    Failpoint::InAssign,
    Failpoint::AfterDeadLetters,
    Failpoint::AfterWrite,
    Failpoint::InCommit,
    Failpoint::AfterCommit,
    Failpoint::InRevoke,
];

/// Two, then four daemons that join, drain and are killed.
async fn members(times: u32) -> Outcome {
    let rig = Rig::new("soak-members", 12).await;
    let configs: Vec<_> = (1..=4).map(|n| rig.daemon(&format!("m{n}"))).collect();
    let mut daemons: Vec<Option<Daemon>> = (0..4).map(|_| None).collect();
    let load = rig.load(0);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for change in 0..times {
        let among = if change < times / 2 { 2 } else { 4 };
        let one = random.random_range(0..among);
        daemons[one] = match daemons[one].take() {
            None => Some(Daemon::start(&configs[one])),
            Some(mut daemon) => {
                daemon.assert_alive(&configs[one]);
                if random.random() {
                    assert!(daemon.stop().success());
                } else {
                    daemon.kill();
                }
                None
            }
        };
        sleep_ms(random.random_range(500..4000)).await;
    }
    let sent = load.end();
    for daemon in daemons.into_iter().flatten() {
        assert!(daemon.stop().success());
    }
    rig.finish(times.into(), sent, 0).await
}

/// SIGSTOP for longer than the session, while others take over; then SIGCONT.
async fn zombies(times: u32) -> Outcome {
    let rig = Rig::new("soak-zombies", 6).await;
    let (a, b) = (rig.plain("a"), rig.plain("b"));
    let mut pair = [Daemon::start(&a), Daemon::start(&b)];
    let load = rig.load(0);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for round in 0..times {
        sleep_ms(random.random_range(2000..5000)).await;
        let sleeper = &pair[round as usize % 2];
        sleeper.signal("STOP");
        sleep_ms(random.random_range(4500..7000)).await;
        sleeper.signal("CONT");
    }
    sleep_ms(3000).await;
    pair[0].assert_alive(&a);
    pair[1].assert_alive(&b);
    let sent = load.end();
    for daemon in pair {
        assert!(daemon.stop().success());
    }
    rig.finish(times.into(), sent, 0).await
}

/// Transactions, a third of them aborted, while daemons are killed.
async fn transactions(times: u32) -> Outcome {
    let rig = Rig::new("soak-transactions", 3).await;
    let config = rig.daemon("d1");
    let topic = rig.home.topic.clone();
    let sender = std::thread::spawn(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", kafka::brokers())
            .set("transactional.id", kafka::unique("sender"))
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        let mut sent = 0;
        for transaction in 0..times * 20 {
            producer.begin_transaction().unwrap();
            let aborts = transaction % 3 == 2;
            for id in sent..sent + 50 {
                // An aborted log has an id that no other has: a row of it would be one too many.
                let id = if aborts { 1_000_000_000 + u64::from(transaction) * 100 + id % 50 } else { id };
                kafka::send(
                    &producer,
                    BaseRecord::to(&topic).partition(partition(id, 3)).payload(message(id).as_slice()),
                );
            }
            producer.flush(PATIENCE).unwrap();
            if aborts {
                producer.abort_transaction(PATIENCE).unwrap();
            } else {
                producer.commit_transaction(PATIENCE).unwrap();
                sent += 50;
            }
            std::thread::sleep(Duration::from_millis(70));
        }
        sent
    });
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for _ in 0..times {
        let mut daemon = Daemon::start(&config);
        sleep_ms(random.random_range(500..3000)).await;
        daemon.assert_alive(&config);
        daemon.kill();
    }
    rig.finish(times.into(), sender.join().unwrap(), 0).await
}

/// The topic is deleted and made again under a running daemon, once all of it is read.
async fn recreate(times: u32) -> Outcome {
    let rig = Rig::new("soak-recreate", 3).await;
    let config = rig.daemon("d1");
    let mut daemon = Daemon::start(&config);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut sent = 0;
    for _ in 0..times {
        let load = rig.load(sent);
        sleep_ms(random.random_range(1000..6000)).await;
        sent = load.end();
        rig.reached(i64::try_from(sent).unwrap()).await;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let deleted = admin().delete_topics(&[&rig.home.topic], &options).await.unwrap();
        deleted.into_iter().for_each(|one| drop(one.unwrap()));
        make_topic(&rig.home.topic, 3).await;
        daemon.assert_alive(&config);
    }
    let load = rig.load(sent);
    sleep_ms(2000).await;
    let sent = load.end();
    rig.reached(i64::try_from(sent).unwrap()).await;
    assert!(daemon.stop().success());
    rig.finish(times.into(), sent, 0).await
}

/// The one broker stops in order, or is killed, and comes back.
async fn broker_restarts(times: u32) -> Outcome {
    one_daemon_while("soak-broker", times, async |round| {
        sleep_ms(5000).await;
        broker(if round % 2 == 0 { "stop" } else { "kill" }, None);
        sleep_ms(1000).await;
        broker("start", None);
    })
    .await
}

/// All brokers are down for a minute.
async fn brokers_down(times: u32) -> Outcome {
    one_daemon_while("soak-down", times, async |_| {
        sleep_ms(8000).await;
        broker("kill", None);
        sleep_ms(60_000).await;
        broker("start", None);
    })
    .await
}

/// One daemon reads what is sent while something breaks again and again, and must not end by it.
async fn one_daemon_while(name: &str, times: u32, breaks: impl AsyncFn(u32)) -> Outcome {
    let rig = Rig::new(name, 6).await;
    let config = rig.daemon("d1");
    let (mut daemon, load) = (Daemon::start(&config), rig.load(0));
    for round in 0..times {
        breaks(round).await;
        daemon.assert_alive(&config);
    }
    sleep_ms(10_000).await;
    let sent = load.end();
    daemon.assert_alive(&config);
    assert!(daemon.stop().success());
    rig.finish(times.into(), sent, 0).await
}

/// Three brokers, one after another is killed: leaders move, acknowledgements on their way are lost, two daemons go on.
async fn leaders(times: u32) -> Outcome {
    let rig = Rig::new("soak-leaders", 6).await;
    let (a, b) = (rig.daemon("a"), rig.daemon("b"));
    let mut pair = [Daemon::start(&a), Daemon::start(&b)];
    let load = rig.load(0);
    for round in 0..times {
        sleep_ms(5000).await;
        let node = 1 + round % 3;
        broker("kill", Some(node));
        sleep_ms(6000).await;
        broker("start", Some(node));
    }
    sleep_ms(8000).await;
    pair[0].assert_alive(&a);
    pair[1].assert_alive(&b);
    let sent = load.end();
    for daemon in pair {
        assert!(daemon.stop().success());
    }
    rig.finish(times.into(), sent, 0).await
}
