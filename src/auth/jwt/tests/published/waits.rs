//! Tests of the waits of tokens for keys: for one fetch each.

use super::*;

/// An issuer that is silent, so that each of its fetches fails only when the pause since its beginning is over. A token
/// waits for one fetch, and is judged by the earlier keys; so are the tokens after it, which do not wait.
#[test]
fn an_issuer_that_is_silent_holds_up_no_token_for_long() {
    let times = Times { fresh: Duration::from_millis(100), pause: Duration::from_millis(600), ..Times::default() };
    let (world, key) = (World::new(times), Signer::new("a"));
    drop(world.wait(&key.token()));
    world.issuing.answer(&[&key]);
    std::thread::sleep(times.pause);
    let head = head(&[format!("Authorization: Bearer {}", key.token())]);
    let (answers, late) = (Answers::default(), Answers::default());
    let first = Credentials::new(&head, None).with_answers(&answers);
    let mut later = world.jwt.prepare(&first).expect("the keys are too old");
    assert!(!is_over(&mut later));
    std::thread::sleep(times.pause);
    let second = Credentials::new(&head, None).with_answers(&late);
    let mut second_later = world.jwt.prepare(&second).expect("a fetch is under way");
    assert!(!is_over(&mut second_later));
    world.issuing.end(Err("not within 5 s".into()));
    assert!(is_over(&mut later) && is_over(&mut second_later));
    let judged = |credentials: &Credentials<'_>| {
        let waits = world.jwt.prepare(credentials).is_some();
        (waits, world.jwt.authenticate(credentials).map(|identity| identity.name).ok(), world.issuing.begun())
    };
    let admitted = |begun| (false, Some("ann".to_string()), begun);
    // Each request is asked again, and the next one comes: no fetch begins.
    let third = Credentials::new(&head, None);
    for credentials in [&first, &second, &third] {
        assert_eq!(judged(credentials), admitted(2));
    }
    // After the pause a fetch goes on beside the tokens. A token that has waited for one waits for no other.
    std::thread::sleep(times.pause);
    for credentials in [&third, &first] {
        assert_eq!(judged(credentials), admitted(3));
    }
    std::thread::sleep(times.pause);
    assert_eq!(judged(&first), admitted(3));
    assert!(world.jwt.prepare(&third).is_some(), "the failure is long ago");
    // The issuer is back, without the key.
    world.issuing.answer(&[&Signer::new("b")]);
    assert_eq!(world.jwt.authenticate(&first).unwrap_err().status, 401);
}

/// A token whose key was there, and is not in the set that the token has waited for, is wrong: its key is withdrawn.
#[test]
fn a_token_waits_for_one_set_of_keys() {
    let times = Times { fresh: Duration::from_millis(20), ..eager() };
    let (world, old, new) = (World::new(times), Signer::new("old"), Signer::new("new"));
    drop(world.wait(&old.token()));
    world.issuing.answer(&[&old]);
    std::thread::sleep(2 * times.fresh);
    let head = head(&[format!("Authorization: Bearer {}", old.token())]);
    let answers = Answers::default();
    let credentials = Credentials::new(&head, None).with_answers(&answers);
    let mut later = world.jwt.prepare(&credentials).expect("the keys are too old");
    assert!(!is_over(&mut later));
    world.issuing.answer(&[&new]);
    assert!(is_over(&mut later) && world.jwt.prepare(&credentials).is_none());
    assert_eq!(world.jwt.authenticate(&credentials).unwrap_err().status, 401);
}
