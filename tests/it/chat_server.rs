//! A model server that writes what a function says: `/v1/models` and `/v1/chat/completions` on loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

/// A model server: `/v1/models` and `/v1/chat/completions`. Its replies depend on the request alone.
pub struct ChatServer {
    pub url: String,
    /// Replies given so far.
    pub replies: Arc<AtomicUsize>,
}

impl ChatServer {
    /// `reply(what the user says, seed)` is what the model writes.
    pub fn start(reply: fn(&str, u64) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let replies = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&replies);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || answer(stream, &counter, reply));
            }
        });
        Self { url, replies }
    }
}

fn answer(stream: TcpStream, replies: &AtomicUsize, reply: fn(&str, u64) -> String) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = if request.starts_with("GET") {
        json!({"object": "list", "data": [{"id": "writer", "object": "model", "owned_by": "test"}]})
    } else {
        let body: Value = serde_json::from_slice(&body).ok()?;
        replies.fetch_add(1, Ordering::Relaxed);
        let text = reply(body["messages"][0]["content"].as_str()?, body["seed"].as_u64()?);
        json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20}})
    };
    let text = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    reader.into_inner().write_all(&[head.as_bytes(), text.as_bytes()].concat()).ok()
}
