//! The kernels and the forward pass on the emulated GPU, against plain loops and the decoder on the CPU.

use super::emulated::Emulated;
use super::forward::Forward;
use super::gpu::Buffer;
use super::pass::Pass;
use super::tiles::Tiles;
use crate::lm::checkpoint::Checkpoint;
use crate::lm::config::ModelConfig;
use crate::lm::decoder::Decoder;
use crate::lm::halving::{OutOfMemory, Room};
use crate::lm::layer::Precision;
use crate::lm::meter::{Meter, Part};
use crate::lm::packed::Packed;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// The orders in which the emulation runs threads and lands copies; see `run_block` in `kernels/emulation/cuda.h`.
const SCHEDULES: [u32; 4] = [0, 1, 2, 3];

fn random(rng: &mut ChaCha8Rng, len: usize, size: f32) -> Vec<bf16> {
    (0..len).map(|_| bf16::from_f32(rng.random_range(-size..size))).collect()
}

fn bytes(values: &[bf16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The largest difference that rounding a result to bf16, and some of what led to it, explains.
fn close(found: &[f32], expect: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expect.len());
    let size = (expect.iter().map(|value| value * value).sum::<f64>() / expect.len() as f64).sqrt();
    for (index, (found, expect)) in found.iter().zip(expect).enumerate() {
        let allowed = tolerance * (expect.abs() + size);
        let difference = (f64::from(*found) - expect).abs();
        assert!(difference <= allowed, "number {index} is {found}, expected {expect}");
    }
}

/// Buffers on the emulated device.
struct Bench {
    gpu: Emulated,
    meter: Meter,
}

type Memory = Buffer<super::emulated::Memory>;

impl Bench {
    fn put(&self, values: &[bf16]) -> Memory {
        self.put_bytes(&bytes(values), 2)
    }

    fn put_bytes(&self, bytes: &[u8], size: usize) -> Memory {
        let mut buffer = Buffer::new(&self.gpu, bytes.len() / size, size).unwrap();
        buffer.write(&self.gpu, 0, bytes).unwrap();
        buffer
    }

    fn empty(&self, len: usize) -> Memory {
        Buffer::bf16(&self.gpu, len).unwrap()
    }

    fn get(&self, buffer: &Memory) -> Vec<f32> {
        let mut bytes = vec![0; 2 * buffer.len()];
        buffer.read(&self.gpu, &mut bytes).unwrap();
        bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
    }

    fn pass(&self) -> Pass<'_, Emulated> {
        Pass::new(&self.gpu, &self.meter).unwrap()
    }
}

/// Runs `work` under every schedule; all must give the same bits.
fn on_every_schedule(work: impl Fn(&Bench) -> Vec<f32>) -> Option<Vec<f32>> {
    let mut results =
        SCHEDULES.iter().map(|schedule| Some(work(&Bench { gpu: Emulated::new(*schedule)?, meter: Meter::default() })));
    let first = results.next()??;
    for (other, schedule) in results.zip(&SCHEDULES[1..]) {
        let (first, other) = (first.iter().map(|x| x.to_bits()), other?);
        assert!(first.eq(other.iter().map(|x| x.to_bits())), "schedule {schedule} changes the result: a race");
    }
    Some(first)
}

fn wide(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

#[test]
fn gathered_rows_are_the_source_rows() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (rows, width) in [(3, 8), (40, 576), (5, 3584)] {
        let source = random(&mut rng, rows * width, 1.0);
        let ids: Vec<u32> = (0..17).map(|_| rng.random_range(0..rows as u32)).collect();
        let found = on_every_schedule(|bench| {
            let (from, indices, out) =
                (bench.put(&source), bench.put_bytes(&words(&ids), 4), bench.empty(ids.len() * width));
            bench.pass().gather(from.view(), indices.view(), ids.len(), out.view(), width, Part::Embed).unwrap();
            bench.get(&out)
        });
        let Some(found) = found else { return };
        let expect: Vec<f64> = ids.iter().flat_map(|id| wide(&source[*id as usize * width..][..width])).collect();
        close(&found, &expect, 0.0);
    }
}

#[test]
fn rms_norm_divides_by_the_root_mean_square() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (rows, width, biased) in [(1, 8, false), (9, 576, true), (17, 1536, false), (8, 896, true)] {
        let (x, weight, bias) =
            (random(&mut rng, rows * width, 3.0), random(&mut rng, width, 2.0), random(&mut rng, width, 1.0));
        let found = on_every_schedule(|bench| {
            let (x, weight, bias) = (bench.put(&x), bench.put(&weight), biased.then(|| bench.put(&bias)));
            let out = bench.empty(rows * width);
            let bias = bias.as_ref().map(Buffer::view);
            bench.pass().rms_norm(x.view(), bias, weight.view(), out.view(), 1e-5).unwrap();
            [bench.get(&out), bench.get(&x)].concat()
        });
        let Some(found) = found else { return };
        let (normed, sums) = found.split_at(rows * width);
        let mut expect = (Vec::new(), Vec::new());
        for x in wide(&x).chunks(width) {
            let x: Vec<f64> = x.iter().zip(wide(&bias)).map(|(x, b)| if biased { x + b } else { *x }).collect();
            let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
            expect.0.extend(x.iter().zip(wide(&weight)).map(|(x, w)| x * scale * w));
            expect.1.extend(x);
        }
        close(normed, &expect.0, 0.01);
        close(sums, &expect.1, 0.005);
    }
}

#[test]
fn swiglu_gates() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (rows, inner, biased) in [(1, 8, false), (5, 1536, true), (3, 4864, false)] {
        let (x, bias) = (random(&mut rng, rows * 2 * inner, 9.0), random(&mut rng, 2 * inner, 1.0));
        let found = on_every_schedule(|bench| {
            let (x, bias, out) = (bench.put(&x), biased.then(|| bench.put(&bias)), bench.empty(rows * inner));
            bench.pass().swiglu(x.view(), bias.as_ref().map(Buffer::view), out.view(), inner).unwrap();
            bench.get(&out)
        });
        let Some(found) = found else { return };
        let expect: Vec<f64> = wide(&x)
            .chunks(2 * inner)
            .flat_map(|row| {
                let row: Vec<f64> = row.iter().zip(wide(&bias)).map(|(x, b)| if biased { x + b } else { *x }).collect();
                (0..inner).map(move |i| row[i] / (1.0 + (-row[i]).exp()) * row[inner + i]).collect::<Vec<_>>()
            })
            .collect();
        close(&found, &expect, 0.005);
    }
}

/// A configuration with these heads, of which nothing else matters.
fn heads(query: usize, kv: usize, dim: usize) -> ModelConfig {
    let config = json!({
        "model_type": "qwen3", "vocab_size": 50, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": query, "num_key_value_heads": kv, "head_dim": dim,
    });
    ModelConfig::from_json(&config.to_string()).unwrap()
}

#[test]
fn queries_and_keys_are_normed_and_rotated_in_place() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (query, kv, dim, biased, normed) in
        [(2, 1, 64, false, false), (3, 3, 80, true, false), (6, 2, 96, false, true), (4, 1, 128, true, true)]
    {
        let config = heads(query, kv, dim);
        let (rows, width, half) = (7, config.qkv_size(), dim / 2);
        let qkv = random(&mut rng, rows * width, 2.0);
        let (bias, norms) = (random(&mut rng, width, 5.0), random(&mut rng, 2 * dim, 2.0));
        let positions: Vec<u32> = (0..rows as u32).map(|row| row * 3 % 5).collect();
        let angles: Vec<f32> = (0..5 * half).flat_map(|at| [(at as f32).cos(), (at as f32).sin()]).collect();
        let angle_bytes: Vec<u8> = angles.iter().flat_map(|angle| angle.to_le_bytes()).collect();
        let found = on_every_schedule(|bench| {
            let (qkv, bias, norms) = (bench.put(&qkv), bench.put(&bias), bench.put(&norms));
            let (positions, angles) = (bench.put_bytes(&words(&positions), 4), bench.put_bytes(&angle_bytes, 4));
            let (bias, norms) = (biased.then(|| bias.view()), normed.then(|| norms.view()));
            let mut pass = bench.pass();
            pass.rope(qkv.view(), bias, norms, positions.view(), angles.view(), &config).unwrap();
            bench.get(&qkv)
        });
        let Some(found) = found else { return };
        let mut expect = wide(&qkv);
        for (row, values) in expect.chunks_mut(width).enumerate() {
            for (head, values) in values.chunks_mut(dim).enumerate() {
                for (value, bias) in values.iter_mut().zip(wide(&bias[head * dim..])) {
                    *value += if biased { bias } else { 0.0 };
                }
                if head >= query + kv {
                    continue;
                }
                if normed {
                    let square = values.iter().map(|x| x * x).sum::<f64>() / dim as f64;
                    let weights = wide(&norms[if head < query { 0 } else { dim }..][..dim]);
                    let scale = 1.0 / (square + f64::from(config.rms_norm_eps)).sqrt();
                    values.iter_mut().zip(weights).for_each(|(value, weight)| *value *= scale * weight);
                }
                for i in 0..half {
                    let at = 2 * (positions[row] as usize * half + i);
                    let (cos, sin) = (f64::from(angles[at]), f64::from(angles[at + 1]));
                    let (a, b) = (values[i], values[half + i]);
                    (values[i], values[half + i]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
        close(&found, &expect, 0.005);
    }
}

/// A forest of segments of the given depth, their lengths drawn from a list that has what tiles do not divide by.
fn tree(rng: &mut ChaCha8Rng, segments: usize) -> Packed {
    const LENGTHS: [usize; 8] = [0, 1, 1, 3, 24, 63, 65, 130];
    let mut packed = Packed::default();
    for index in 0..segments {
        let parent = (index > 0 && rng.random_bool(0.8)).then(|| rng.random_range(0..index));
        let len = LENGTHS[rng.random_range(0..LENGTHS.len())];
        let tokens: Vec<u32> = (0..len).map(|_| rng.random_range(0..50)).collect();
        packed.push(parent, &tokens);
    }
    packed.push(None, &[1]);
    packed
}

/// The rows that a row sees, by the definition.
fn visible(packed: &Packed, row: usize, window: usize) -> Vec<usize> {
    let segment = packed.segments().position(|rows| rows.contains(&row)).unwrap();
    let above = packed.above(segment).into_iter().flatten();
    let all: Vec<usize> = above.chain(packed.segment(segment).start..=row).collect();
    all[if window == 0 { 0 } else { all.len().saturating_sub(window) }..].to_vec()
}

#[test]
fn attention_is_a_softmax_over_what_each_row_sees() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    // Query heads, key heads, their size, window, chosen rows only.
    for (query, kv, dim, window, chosen) in [
        (1, 1, 64, 0, false),
        (9, 3, 64, 0, false),
        (14, 2, 64, 0, true),
        (2, 1, 80, 70, false),
        (5, 1, 96, 1, false),
        (8, 1, 128, 0, false),
        (6, 1, 128, 100, true),
        (4, 4, 128, 64, false),
    ] {
        let config = heads(query, kv, dim);
        let packed = tree(&mut rng, 7);
        let rows: Vec<usize> = if chosen {
            (0..9).map(|_| rng.random_range(0..packed.len())).collect()
        } else {
            (0..packed.len()).collect()
        };
        let width = config.qkv_size();
        let qkv = random(&mut rng, packed.len() * width, 2.0);
        let tiles = Tiles::new(&packed, chosen.then_some(&rows[..]), 64 / config.group_size());
        let found = on_every_schedule(|bench| {
            let (qkv, out) = (bench.put(&qkv), bench.empty(rows.len() * query * dim));
            let list = bench.put_bytes(&words(tiles.tiles.as_flattened()), 4);
            let ranges = bench.put_bytes(&words(tiles.ranges.as_flattened()), 4);
            let ranges = ranges.view();
            bench.pass().attention(qkv.view(), out.view(), list.view(), ranges, window as u32, &config).unwrap();
            bench.get(&out)
        });
        let Some(found) = found else { return };
        let values = wide(&qkv);
        let head = |row: usize, index: usize| &values[row * width + index * dim..][..dim];
        let mut expect = Vec::new();
        for &row in &rows {
            let seen = visible(&packed, row, window);
            for index in 0..query {
                let shared = query + index / config.group_size();
                let score = |key: &usize| {
                    let products = head(row, index).iter().zip(head(*key, shared)).map(|(q, k)| q * k);
                    products.sum::<f64>() / (dim as f64).sqrt()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
                let total: f64 = weights.iter().sum();
                expect.extend((0..dim).map(|i| {
                    let sums = seen.iter().zip(&weights).map(|(row, weight)| weight * head(*row, shared + kv)[i]);
                    sums.sum::<f64>() / total
                }));
            }
        }
        close(&found, &expect, 0.01);
    }
}

/// A folder with a model of random bf16 weights.
fn model(config: &Value) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a folder that only this test reads")]
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let sizes = ModelConfig::from_json(&config.to_string()).unwrap();
    let (hidden, inner, dim) = (sizes.hidden_size, sizes.intermediate_size, sizes.head_dim);
    let (q, kv) = (sizes.num_heads * dim, sizes.num_kv_heads * dim);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![sizes.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        ("lm_head.weight".to_owned(), vec![sizes.vocab_size, hidden]),
    ];
    for layer in 0..sizes.num_layers {
        let mut push =
            |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (name, outputs, inputs) in [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            push(&format!("{name}.weight"), &[outputs, inputs]);
            push(&format!("{name}.bias"), &[outputs]);
        }
        for (name, size) in [("input_layernorm", hidden), ("post_attention_layernorm", hidden)] {
            push(&format!("{name}.weight"), &[size]);
        }
        for name in ["q_norm", "k_norm"] {
            push(&format!("self_attn.{name}.weight"), &[dim]);
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut tensors = HashMap::new();
    for (name, shape) in shapes {
        // Sums over a row come out near 1.
        let size = if name.contains("norm") { 1.5 } else { (3.0 / *shape.last().unwrap() as f32).sqrt() };
        let values: Vec<f32> =
            random(&mut rng, shape.iter().product(), size).iter().map(|value| value.to_f32()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        tensors.insert(name, tensor);
    }
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 50, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": true, "mlp_bias": true,
    })
}

#[test]
fn the_forward_pass_agrees_with_the_cpu() {
    let qwen2 = json!({
        "model_type": "qwen2", "vocab_size": 50, "hidden_size": 160, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": true,
    });
    let qwen3 = json!({
        "model_type": "qwen3", "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 128,
    });
    let windows = json!({
        "model_type": "qwen2", "vocab_size": 50, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 1, "num_key_value_heads": 1, "use_sliding_window": true, "sliding_window": 20,
        "max_window_layers": 1,
    });
    for (index, config) in [llama(), qwen2, qwen3, windows].iter().enumerate() {
        let (_folder, checkpoint) = model(config);
        let cpu = Decoder::load(&checkpoint, &Device::Cpu, Precision::F32).unwrap();
        let packed = tree(&mut ChaCha8Rng::seed_from_u64(7 + index as u64), 5);
        // Out of order, one of them twice.
        let rows: Vec<usize> = (0..packed.len()).rev().step_by(5).chain([0, 0]).collect();
        let tokens = [3, 1, 49];
        let expect = cpu.hidden(&packed, &rows).unwrap();
        let expect_logits = cpu.logits_of(&expect, &tokens).unwrap();
        let found = on_every_schedule(|bench| {
            let gpu = Emulated::new(bench.gpu.schedule).unwrap();
            let forward = Forward::load(&checkpoint, gpu).unwrap();
            let hidden = forward.hidden(&packed, &rows).unwrap();
            let logits = forward.logits_of(&hidden, &tokens).unwrap();
            let all = forward.logits(&hidden).unwrap();
            let ids = Tensor::new(&tokens, &Device::Cpu).unwrap();
            assert_eq!(floats(&all.index_select(&ids, 1).unwrap()), floats(&logits));
            [floats(&hidden), floats(&logits)].concat()
        });
        let Some(found) = found else { return };
        let expect = [floats(&expect), floats(&expect_logits)].concat();
        let (mut difference, mut size) = (0.0, 0.0);
        for (found, expect) in found.iter().zip(&expect) {
            difference += f64::from(found - expect).powi(2);
            size += f64::from(*expect).powi(2);
        }
        let error = (difference / size).sqrt();
        assert!(error < 0.02, "model {index}: relative error {error}");
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (_folder, checkpoint) = model(&llama());
    let Some(gpu) = Emulated::new(0) else { return };
    let forward = Forward::load(&checkpoint, gpu).unwrap();
    let (document, other): (Vec<u32>, Vec<u32>) = ((0..70).map(|i| i % 50).collect(), (0..33).collect());
    let mut together = Packed::default();
    together.push(None, &other);
    let prefix = together.push(None, &document);
    let sibling = together.push(Some(prefix), &other);
    let question = together.push(Some(prefix), &[8, 9]);
    assert!(sibling < question);
    let rows = [together.last_row(question).unwrap()];
    let mut alone = Packed::default();
    let end = alone.push(None, &[&document[..], &[8, 9]].concat());
    let found = forward.hidden(&together, &rows).unwrap();
    assert_eq!(floats(&found), floats(&forward.hidden(&alone, &[alone.last_row(end).unwrap()]).unwrap()));
    // Nor on what a smaller batch left in the buffers.
    assert_eq!(floats(&found), floats(&forward.hidden(&together, &rows).unwrap()));
}

#[test]
fn a_batch_beyond_memory_goes_through_in_parts() {
    let (_folder, checkpoint) = model(&llama());
    let mut packed = Packed::default();
    let prefix = packed.push(None, &[1, 2]);
    let mut rows = Vec::new();
    for document in 0..4u32 {
        let document = packed.push(Some(prefix), &[document; 20]);
        let question = packed.push(Some(document), &[30, 31]);
        rows.extend(packed.last_row(question));
    }
    let Some(gpu) = Emulated::new(0) else { return };
    let live = gpu.live.clone();
    let whole = Forward::load(&checkpoint, gpu).unwrap();
    let before = live.load(Ordering::Relaxed);
    let expect = floats(&whole.hidden(&packed, &rows).unwrap());
    // A row's activations take 1.7 kB: there is room for half of the batch.
    let mut gpu = Emulated::new(0).unwrap();
    let live = gpu.live.clone();
    gpu.limit = before + 256 * 1024 + 100_000;
    let tight = Forward::load(&checkpoint, gpu).unwrap();
    assert_eq!(live.load(Ordering::Relaxed), before);
    assert!(tight.hidden(&packed, &rows).unwrap_err().is::<OutOfMemory>());
    let found = Room::default().run(&packed, &rows, &|packed, rows| tight.hidden(packed, rows)).unwrap();
    assert_eq!(floats(&found), expect);

    let mut gpu = Emulated::new(0).unwrap();
    gpu.limit = before - 1;
    let error = Forward::load(&checkpoint, gpu).err().unwrap();
    assert!(error.to_string().contains("does not fit on the GPU"), "{error}");
}

#[test]
fn a_model_without_kernels_is_refused() {
    let mut config = llama();
    config["head_dim"] = 32.into();
    let (_folder, checkpoint) = model(&config);
    let Some(gpu) = Emulated::new(0) else { return };
    let error = Forward::load(&checkpoint, gpu).err().unwrap();
    assert!(error.to_string().contains("heads of 32 numbers"), "{error}");
}

#[test]
fn a_meter_sees_every_part() {
    let (_folder, checkpoint) = model(&llama());
    let Some(gpu) = Emulated::new(0) else { return };
    let mut forward = Forward::load(&checkpoint, gpu).unwrap();
    let meter = Meter::running();
    forward.set_meter(meter.clone());
    let mut packed = Packed::default();
    packed.push(None, &[1, 2, 3]);
    let hidden = forward.hidden(&packed, &[2]).unwrap();
    forward.logits_of(&hidden, &[7, 8]).unwrap();
    for part in [Part::Embed, Part::Norm, Part::Qkv, Part::Attention, Part::OutputMlp, Part::Head] {
        assert!(meter.read(part).0 > 0.0, "{part:?}");
    }
    // Three layers of 3 rows of 128 to 256, and two logits of 128 numbers.
    assert_eq!(meter.read(Part::Qkv).1, 3.0 * 2.0 * 3.0 * 128.0 * 256.0);
    assert_eq!(meter.read(Part::Head).1, 2.0 * 2.0 * 128.0);
    // Two heads of 64; rows see 1, 2 and 3 keys, and in the last layer there is only the last row.
    assert_eq!(meter.read(Part::Attention).1, 4.0 * (6.0 + 6.0 + 3.0) * 128.0);
    assert!(forward.peak(32).unwrap() > 0.0);
}
