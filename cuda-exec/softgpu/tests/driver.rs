//! The driver API, through the functions it exports.

mod common;

use common::*;

#[test]
fn vector_add() {
    let _ctx = Ctx::new();
    let module = load(PTX);
    let f = function(module, c"vadd");
    let n = 1000usize;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 2.0 * i as f32).collect();
    let (da, db, dc) = (upload(&a), upload(&b), alloc(n * 4));
    launch(f, [8, 1, 1], [128, 1, 1], 0, 0, &[&dc, &da, &db, &(n as u32)]);
    let c: Vec<f32> = download(dc, n);
    assert!(c.iter().enumerate().all(|(i, v)| *v == 3.0 * i as f32));
}
