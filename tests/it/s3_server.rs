//! An object store on loopback that speaks S3's protocol: list, get with ranges, put with `If-None-Match: *`, multipart.
//!
//! Every request must be signed by [`KEY`] (in a header, whose payload hash is compared with the payload, or in a link), and
//! nothing is replaced by a conditional put. The signature's own value is not recomputed: it is the library's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::hub_server::sha256;
use crate::upload_server::read_head;

pub const KEY: &str = "AKIDTEST";
pub const SECRET: &str = "s3cr3t-key-that-nobody-may-see";
pub const BUCKET: &str = "bucket";

#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: Vec<u8>,
    pub metadata: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, (Object, BTreeMap<u64, Vec<u8>>)>,
    /// Method, part of the path, status, times.
    faults: Vec<(&'static str, &'static str, u16, usize)>,
    /// Method and key, in their order.
    seen: Vec<(String, String)>,
}

pub struct S3Server {
    state: Arc<Mutex<State>>,
    port: u16,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

impl S3Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, closing) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&closing));
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { state, port, closing, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        self.state.lock().unwrap().objects.insert(key.into(), Object { bytes, metadata: BTreeMap::new() });
    }

    pub fn fault(&self, method: &'static str, path: &'static str, status: u16, times: usize) {
        self.state.lock().unwrap().faults.push((method, path, status, times));
    }

    pub fn objects(&self) -> BTreeMap<String, Object> {
        self.state.lock().unwrap().objects.clone()
    }

    pub fn requests(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().seen.clone()
    }

    pub fn unfinished(&self) -> usize {
        self.state.lock().unwrap().uploads.len()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        self.thread.take().map(JoinHandle::join);
    }
}

/// Requests of one connection, until the client goes away.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let request = read(&mut reader)?;
        let (status, headers, body) = answer(&request, &mut state.lock().unwrap());
        let mut head = format!("HTTP/1.1 {status} x\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let length = body.len();
        head += &format!("Content-Length: {length}\r\n\r\n");
        let body = if request.method == "HEAD" { &[][..] } else { &body };
        let mut out = stream;
        out.write_all(&[head.as_bytes(), body].concat()).ok()?;
    }
}

fn answer(request: &Request, state: &mut State) -> Answer {
    state.seen.push((request.method.clone(), request.key.clone()));
    let fault = state
        .faults
        .iter_mut()
        .find(|(method, path, _, left)| *left > 0 && *method == request.method && request.key.contains(path));
    if let Some((_, _, status, left)) = fault {
        *left -= 1;
        return error(*status, "OnDemand");
    }
    if !is_signed(request) {
        return error(403, "AccessDenied");
    }
    let has = |name: &str| request.query.contains_key(name);
    let etag = |bytes: &[u8]| format!("\"{}\"", &sha256(bytes)[..32]);
    match request.method.as_str() {
        "GET" if has("list-type") => list(request, state),
        "GET" | "HEAD" => {
            let Some(object) = state.objects.get(&request.key) else { return error(404, "NoSuchKey") };
            let mut headers = vec![
                ("ETag".to_owned(), etag(&object.bytes)),
                ("Last-Modified".to_owned(), "Mon, 23 Nov 2026 00:00:00 GMT".to_owned()),
            ];
            headers.extend(object.metadata.iter().map(|(name, value)| (name.clone(), value.clone())));
            let range = request.headers.get("range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
            match range {
                None => (200, headers, object.bytes.clone()),
                Some((first, last)) => {
                    let size = object.bytes.len();
                    let first: usize = first.parse().unwrap();
                    let last = last.parse().map_or(size - 1, |last: usize| last.min(size - 1));
                    headers.push(("Content-Range".into(), format!("bytes {first}-{last}/{size}")));
                    (206, headers, object.bytes[first..=last].to_vec())
                }
            }
        }
        "PUT" if has("uploadId") => {
            let Some((_, parts)) = state.uploads.get_mut(&request.query["uploadId"]) else {
                return error(404, "NoSuchUpload");
            };
            parts.insert(request.query["partNumber"].parse().unwrap(), request.body.clone());
            (200, vec![("ETag".into(), etag(&request.body))], vec![])
        }
        "PUT" => {
            if request.headers.get("if-none-match").is_some_and(|value| value == "*")
                && state.objects.contains_key(&request.key)
            {
                return error(412, "PreconditionFailed");
            }
            let object = Object { bytes: request.body.clone(), metadata: metadata(request) };
            state.objects.insert(request.key.clone(), object);
            (200, vec![("ETag".into(), etag(&request.body))], vec![])
        }
        "POST" if has("uploads") => {
            let id = format!("upload-{}", state.seen.len());
            state.uploads.insert(id.clone(), (Object { bytes: vec![], metadata: metadata(request) }, BTreeMap::new()));
            xml(&format!(
                "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                request.key
            ))
        }
        "POST" => {
            let Some((object, parts)) = state.uploads.remove(&request.query["uploadId"]) else {
                return error(404, "NoSuchUpload");
            };
            let named = String::from_utf8_lossy(&request.body).matches("<PartNumber>").count();
            let numbers: Vec<u64> = parts.keys().copied().collect();
            let too_small = parts.values().rev().skip(1).any(|part| part.len() < 5 << 20);
            if named != parts.len() || numbers != (1..=parts.len() as u64).collect::<Vec<_>>() || too_small {
                return error(400, "InvalidPart");
            }
            let bytes: Vec<u8> = parts.into_values().flatten().collect();
            let tag = etag(&bytes);
            state.objects.insert(request.key.clone(), Object { bytes, ..object });
            xml(&format!(
                "<CompleteMultipartUploadResult><Key>{}</Key><ETag>{tag}</ETag></CompleteMultipartUploadResult>",
                request.key
            ))
        }
        "DELETE" if has("uploadId") => {
            state.uploads.remove(&request.query["uploadId"]);
            (204, vec![], vec![])
        }
        _ => error(405, "MethodNotAllowed"),
    }
}

/// Pages of two entries, so that going on is needed.
fn list(request: &Request, state: &State) -> Answer {
    let query = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter) = (query("prefix"), query("delimiter"));
    let mut entries: Vec<(String, Option<&Object>)> = Vec::new();
    for (key, object) in state.objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        match key[prefix.len()..].split_once(&delimiter).filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) => {
                let folder = format!("{prefix}{folder}{delimiter}");
                if entries.last().is_none_or(|(last, _)| *last != folder) {
                    entries.push((folder, None));
                }
            }
            None => entries.push((key.clone(), Some(object))),
        }
    }
    let start: usize = query("continuation-token").parse().unwrap_or(0);
    let end = (start + 2).min(entries.len());
    let mut text = format!("<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{}</IsTruncated>", end < entries.len());
    if end < entries.len() {
        text += &format!("<NextContinuationToken>{end}</NextContinuationToken>");
    }
    for (key, object) in &entries[start..end] {
        text += &match object {
            Some(object) => format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><ETag>&quot;{}&quot;</ETag>\
                 <LastModified>2026-11-23T00:00:00.000Z</LastModified></Contents>",
                object.bytes.len(),
                &sha256(&object.bytes)[..32]
            ),
            None => format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"),
        };
    }
    xml(&(text + "</ListBucketResult>"))
}

fn is_signed(request: &Request) -> bool {
    let by_key = |text: &str| text.contains(&format!("{KEY}/")) && text.contains("/s3/aws4_request");
    if let Some(credential) = request.query.get("X-Amz-Credential") {
        let in_time = request.query.contains_key("X-Amz-Date") && request.query.contains_key("X-Amz-Expires");
        return by_key(credential)
            && in_time
            && request.query.get("X-Amz-Signature").is_some_and(|hex| hex.len() == 64);
    }
    let header = request.headers.get("authorization").cloned().unwrap_or_default();
    let payload = request.headers.get("x-amz-content-sha256").cloned().unwrap_or_default();
    header.starts_with("AWS4-HMAC-SHA256 ")
        && by_key(&header)
        && header.contains("Signature=")
        && payload == sha256(&request.body)
}

fn metadata(request: &Request) -> BTreeMap<String, String> {
    let metadata = request.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
    metadata.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn xml(text: &str) -> Answer {
    (200, vec![("Content-Type".into(), "application/xml".into())], text.as_bytes().to_vec())
}

fn error(status: u16, code: &str) -> Answer {
    let (_, headers, body) = xml(&format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"));
    (status, headers, body)
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let (method, target, headers) = read_head(reader)?;
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = decoded(path).trim_start_matches('/').strip_prefix(BUCKET)?.trim_start_matches('/').to_owned();
    let query = query.split('&').filter(|part| !part.is_empty());
    let query = query
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (name.to_owned(), decoded(value)));
    Some(Request { method, key, query: query.collect(), headers, body })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex: Vec<u8> = rest.by_ref().take(2).collect();
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}
