//! Text from an endpoint: replies in order, begun replies, and what becomes of a prompt that is refused.

use std::sync::Arc;

use four_habits::data::hub::{Notice, Stop};
use four_habits::endpoint::{EndpointGenerator, EndpointSpec};
use four_habits::error::{Exit, exit_of};
use four_habits::generation::{Finish, Prompt, Reply, Sampling, TextGenerator, Unanswered};
use four_habits::lm::Message;

use crate::model_server::{Fault, Manners, ModelServer, Prefixes, Shape};

const SAMPLING: Sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_tokens: 40, stop: Vec::new() };

fn connect(server: &ModelServer) -> EndpointGenerator {
    let quiet: Notice = Arc::new(|_: &str| {});
    let spec = EndpointSpec { concurrency: 3, ..EndpointSpec::new(server.url()) };
    EndpointGenerator::connect(&spec, &quiet, &Stop::default()).unwrap()
}

fn prompt(text: &str, reply_prefix: &str) -> Prompt {
    let messages = vec![Message { role: "user", content: text.to_owned() }];
    Prompt { messages, reply_prefix: reply_prefix.to_owned(), seed: u64::MAX }
}

fn texts(replies: &[Result<Reply, Unanswered>]) -> Vec<&str> {
    replies.iter().map(|reply| reply.as_ref().map_or("-", |reply| &reply.text)).collect()
}

#[test]
fn replies_are_in_order_and_a_refused_prompt_is_its_own_affair() {
    let server = ModelServer::start(Manners::default());
    let mut generator = connect(&server);
    assert_eq!((generator.identity().kind.as_str(), generator.identity().model.as_str()), ("endpoint", "judge-7b"));
    let asked: Vec<Prompt> =
        ["one", "two", "refuse me", "three at length", "four. five"].map(|text| prompt(text, "")).into();
    let replies = generator.generate(&asked, &SAMPLING).unwrap();
    assert_eq!(texts(&replies), ["ONE", "TWO", "-", "THREE AT LENGTH", "FOUR. FIVE"]);
    let why = replies[2].as_ref().unwrap_err();
    assert_eq!(why.0, "the endpoint refuses the prompt (status 400): I would rather not");
    let third = replies[3].as_ref().unwrap();
    assert_eq!((third.finish, third.prompt_tokens, third.reply_tokens), (Finish::Length, 7, 3));

    // A server that leaves stop strings in is put right.
    let sampling = Sampling { stop: vec![". ".into()], top_k: 5, ..SAMPLING };
    let replies = generator.generate(&asked[4..], &sampling).unwrap();
    assert_eq!(texts(&replies), ["FOUR"]);
    let last = server.requests().pop().unwrap().body;
    assert_eq!((&last["top_k"], &last["stop"][0], &last["seed"]), (&5.into(), &". ".into(), &0x7fff_ffff.into()));
}

#[test]
fn begun_replies_are_continued_by_servers_that_can() {
    for prefixes in [Prefixes::Continued, Prefixes::Repeated] {
        let server = ModelServer::start(Manners { prefixes, ..Manners::default() });
        let replies = connect(&server).generate(&[prompt("one", "<think>"), prompt("two", "")], &SAMPLING).unwrap();
        assert_eq!(texts(&replies), ["ONE", "TWO"], "{prefixes:?}");
    }
    let server = ModelServer::start(Manners { prefixes: Prefixes::Ignored, ..Manners::default() });
    let error = connect(&server).generate(&[prompt("one", "<think>")], &SAMPLING).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Usage);
    assert!(error.to_string().contains("does not continue a begun reply"), "{error}");
}

#[test]
fn garbage_ends_the_work() {
    let server = ModelServer::start(Manners { shape: Shape::Map, ..Manners::default() });
    server.fault(Fault::Garbage("{\"choices\": []}"), 1);
    let error = connect(&server).generate(&[prompt("Question: one", "")], &SAMPLING).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Unavailable);
    assert!(error.to_string().contains("answers without `choices`"), "{error}");
}
