//! Programs that are started while the database is away: they live, are not ready, say why, and work as soon as it is
//! there.

use std::time::Duration;

use rowlock::JobQueue;

use crate::{
    fleet::{Fleet, get, now, quantile, soak, turn, until},
    ledger::drained,
    postgres::all_begin,
    scene::Scene,
    server::Server,
};

/// The bar: every worker runs a job so soon after the database answers.
const AGAIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a bar of time: make soak"]
async fn programs_started_while_the_database_is_away_wait_for_it_and_say_so() {
    let turn = turn().await;
    let (n, leaders, away) = if soak() { (20, 2, Duration::from_secs(60)) } else { (4, 1, Duration::from_secs(5)) };
    let mut server = Server::start().await;
    let db = server.db().await;
    JobQueue::connect(&db.url).await.unwrap().migrate().await.unwrap();
    let mut scene = Scene::on(turn, db, &["--concurrency", "2", "--http", "127.0.0.1:0"]).await;
    let controllers = Fleet::new(&scene.db.url, &["--http", "127.0.0.1:0"]);
    scene.enqueue(50 * n, |chance| 20 + chance.below(100)).await;

    server.die().await;
    let mut workers: Vec<_> = (0..n).map(|_| scene.fleet.start()).collect();
    let mut leaders: Vec<_> = (0..leaders).map(|_| controllers.run(&["controller"])).collect();
    tokio::time::sleep(away).await;
    for (fleet, programs) in [(&scene.fleet, &mut workers), (&controllers, &mut leaders)] {
        let ended = programs.iter_mut().find_map(|p| p.ended());
        assert!(ended.is_none(), "{ended:?}: it did not wait: {}", fleet.last_error());
        let addresses = fleet.addresses();
        assert_eq!(addresses.len(), programs.len(), "all serve HTTP");
        for address in addresses {
            let (live, ready) = (get(&address, "/livez").unwrap(), get(&address, "/readyz").unwrap());
            assert!(live.contains(" 200 OK"), "{live}");
            assert!(ready.contains(" 503 ") && ready.contains("database"), "{ready}");
        }
        assert!(fleet.said("the database is away") >= programs.len(), "they say why");
    }
    server.up().await;
    let up = now();
    scene.db = server.db().await;
    let mut again = all_begin(&scene.ledger, &workers, up).await;
    let worst = quantile(&mut again, 1.0);
    for fleet in [&scene.fleet, &controllers] {
        let ready = |address: &String| get(address, "/readyz").is_ok_and(|text| text.contains(" 200 OK"));
        until("all are ready", || std::future::ready(fleet.addresses().iter().all(ready))).await;
    }
    drained(&scene.db).await;
    eprintln!("starts: {n} workers and {} controllers waited for {away:?}; all work {worst:.2?} after", leaders.len());
    assert!(worst <= AGAIN, "{worst:?}");
}
