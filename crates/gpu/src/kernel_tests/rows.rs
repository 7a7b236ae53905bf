//! Norms, the loss, and what else works on rows or single values.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

#[test]
fn rmsnorm_is_its_twin() {
    for kernel in forms(Op::Norm) {
        for (rows, cols, grid) in rows_of(kernel) {
            let mut bench = Bench::of(kernel);
            let (x, w) = (scaled(1, rows * cols, 3.0), noise(2, cols));
            let (expected, expected_rstd) = twin::rmsnorm(cols, &x, &w, EPS);
            let (x, w) = (bench.arena(&x), bench.put(Memory::Params, &w));
            let (y, rstd) = (bench.room(Memory::Arena, rows * cols), bench.room(Memory::Stats, rows));
            let arguments = [rows as u32, cols as u32, x, w, y, rstd, EPS.to_bits()];
            let outcome = bench.run(kernel, 16, &arguments, grid);
            let outcome = outcome.values("Y", Memory::Arena, y, &expected);
            outcome.values("rstd", Memory::Stats, rstd, &expected_rstd).nothing_else();
        }
    }
}

#[test]
fn rmsnorm_dx_is_its_twin() {
    for kernel in forms(Op::NormDx) {
        for (adds, (rows, cols, grid)) in
            [false, true].into_iter().flat_map(|adds| rows_of(kernel).map(move |row| (adds, row)))
        {
            let (x, w, dy) = (scaled(1, rows * cols, 2.0), noise(2, cols), noise(3, rows * cols));
            let old = if adds { noise(4, rows * cols) } else { vec![0.0; rows * cols] };
            let rstds = narrow(&twin::rmsnorm(cols, &x, &w, EPS).1);
            let mut expected = twin::rmsnorm_backward(cols, &x, &w, &rstds, &dy).0;
            expected.iter_mut().zip(&old).for_each(|(dx, old)| *dx += f64::from(*old));
            let mut bench = Bench::of(kernel);
            let weight = bench.put(Memory::Params, &w);
            let at = [bench.arena(&x), bench.arena(&dy), bench.stats(&rstds)];
            let dx = if adds { bench.arena(&old) } else { bench.room(Memory::Arena, rows * cols) };
            let arguments = [rows as u32, cols as u32, at[0], weight, at[1], at[2], dx, u32::from(adds)];
            let outcome = bench.run(kernel, 16, &arguments, grid);
            outcome.values("dX", Memory::Arena, dx, &expected).nothing_else();
        }
    }
}

#[test]
fn rmsnorm_dw_is_its_twin() {
    for (rows, cols) in SHAPES {
        let (x, w, dy) = (scaled(1, rows * cols, 2.0), noise(2, cols), noise(3, rows * cols));
        let rstds = narrow(&twin::rmsnorm(cols, &x, &w, EPS).1);
        // The first micro-batch, and one that adds.
        for adds in [0, 1] {
            let mut expected = twin::rmsnorm_backward(cols, &x, &w, &rstds, &dy).1;
            let mut bench = Bench::new();
            bench.step.adds = adds;
            let dw = if adds > 0 {
                let old = noise(4, cols);
                expected.iter_mut().zip(&old).for_each(|(sum, old)| sum.add(f64::from(*old)));
                bench.put(Memory::Grads, &old)
            } else {
                bench.room(Memory::Grads, cols)
            };
            let at = [bench.arena(&x), bench.arena(&dy), bench.stats(&rstds)];
            let arguments = [rows as u32, cols as u32, at[0], dw, at[1], at[2]];
            let outcome = bench.run(Kernel::RmsNormDw, 16, &arguments, [cols.div_ceil(64) as u32, 1, 1]);
            outcome.sums("dW", Memory::Grads, dw, &expected).nothing_else();
        }
    }
}

#[test]
fn swiglu_and_its_backward_are_their_twins() {
    for count in [1, 63, 65, 2600, 32_768] {
        let (gate, up, dy) = (scaled(1, count, 6.0), noise(2, count), noise(3, count));
        let mut bench = Bench::new();
        let at = [bench.arena(&gate), bench.arena(&up)];
        let y = bench.room(Memory::Arena, count);
        let outcome = bench.run(Kernel::SwiGlu, 16, &[count as u32, at[0], at[1], y], threads(count));
        outcome.values("Y", Memory::Arena, y, &twin::swiglu(&gate, &up)).nothing_else();

        let (d_gate, d_up) = twin::swiglu_backward(&gate, &up, &dy);
        let mut bench = Bench::new();
        let at = [bench.arena(&gate), bench.arena(&up), bench.arena(&dy)];
        let arguments = [count as u32, at[0], at[1], at[2]];
        let outcome = bench.run(Kernel::SwiGluBackward, 16, &arguments, threads(count));
        let outcome = outcome.values("d gate", Memory::Arena, at[0], &d_gate);
        outcome.values("d up", Memory::Arena, at[1], &d_up).nothing_else();
    }
}

/// The vocabulary whole, and a part in its middle of which tokens before and after know nothing.
const TOKEN_PARTS: [(u32, u32); 2] = [(0, 37), (8, 12)];

#[test]
fn embed_is_its_twin() {
    for ((rows, cols), (first, count)) in SHAPES.into_iter().flat_map(|shape| TOKEN_PARTS.map(|part| (shape, part))) {
        let (table, tokens) = (noise(1, 37 * cols), picks(2, rows, 37));
        let mut expected = twin::embed(cols, &table, &tokens);
        let mut bench = Bench::new();
        // A micro-batch that is not the first of its batch.
        bench.step.first_row = 3;
        for (row, token) in expected.chunks_mut(cols).zip(&tokens) {
            if !(first..first + count).contains(token) {
                row.fill(f64::from(FENCE));
            }
        }
        bench.tokens = [vec![0; 6], tokens].concat();
        let part = &table[first as usize * cols..][..count as usize * cols];
        let (e, x) = (bench.put(Memory::Params, part), bench.room(Memory::Arena, rows * cols));
        let arguments = [rows as u32, cols as u32, e, x, first, count];
        let outcome = bench.run(Kernel::Embed, 16, &arguments, threads(rows * cols));
        outcome.values("X", Memory::Arena, x, &expected).nothing_else();
    }
}

#[test]
fn embed_backward_is_its_twin() {
    for ((rows, cols), vocab) in SHAPES.into_iter().zip([1, 7, 3, 300, 64, 65]) {
        // Alone, on top of the head's gradient, and on top of an earlier micro-batch's; each on a part of the vocabulary.
        for (tied, first_row) in [(false, 0), (true, 0), (false, 2)] {
            let (dx, tokens) = (noise(1, rows * cols), picks(2, rows, vocab as u32));
            let old = noise(3, vocab * cols);
            let zeros = vec![0.0; old.len()];
            let adds = tied || first_row > 0;
            let expected = twin::embed_backward(cols, &tokens, &dx, if adds { &old } else { &zeros });
            let first = vocab / 3;
            let mut bench = Bench::new();
            (bench.step.first_row, bench.step.adds) = (first_row, u32::from(first_row > 0));
            bench.tokens = [vec![0; 2 * first_row as usize], tokens].concat();
            let (e, dx) = (bench.put(Memory::Grads, &old[first * cols..]), bench.arena(&dx));
            let count = (vocab - first) as u32;
            let arguments = [rows as u32, cols as u32, e, dx, count, u32::from(tied), first as u32];
            let outcome = bench.run(Kernel::EmbedBackward, 16, &arguments, threads(vocab - first));
            outcome.sums("dE", Memory::Grads, e, &expected[first * cols..]).nothing_else();
        }
    }
}

#[test]
fn cross_entropy_is_its_twin() {
    for kernel in forms(Op::CrossEntropy) {
        for (scale, (rows, vocab, grid)) in
            [4.0, 200.0].into_iter().flat_map(|scale| rows_of(kernel).map(move |row| (scale, row)))
        {
            let (logits, targets) = (scaled(1, rows * vocab, scale), picks(2, rows, vocab as u32));
            let (expected_losses, mut expected_gradient) = twin::cross_entropy(vocab, &logits, &targets);
            let mut bench = Bench::new();
            // These rows start at the second of a micro-batch, which starts at the fourth of a batch of twice as many.
            let (first, first_row, of, batch) = (1, 3, rows + 2, 2 * rows);
            bench.step.first_row = first_row;
            bench.tokens = [vec![0; 2 * first_row as usize + of + first], targets].concat();
            for value in &mut expected_gradient {
                *value /= 2.0;
            }
            // Rows for vectors: what is after the vocabulary is noise before and zero after.
            let stride = vocab.next_multiple_of(4);
            let wide = |fill: f64, values: &[f64]| -> Vec<f64> {
                let row = |row: &[f64]| [row, &vec![fill; stride - vocab]].concat();
                values.chunks(vocab).flat_map(row).collect()
            };
            let before: Vec<f64> = logits.iter().copied().map(f64::from).collect();
            let skipped = first_row as usize + first;
            let (l, losses) = (bench.arena(&narrow(&wide(9.0, &before))), bench.room(Memory::Stats, skipped + rows));
            let [rows, vocab, stride, first, of, batch] =
                [rows, vocab, stride, first, of, batch].map(|size| size as u32);
            let arguments = [rows, vocab, l, losses, stride, first, of, batch];
            let outcome = bench.run(kernel, 16, &arguments, grid);
            let outcome = outcome.values("loss", Memory::Stats, losses + skipped as u32, &expected_losses);
            outcome.values("dL", Memory::Arena, l, &wide(0.0, &expected_gradient)).nothing_else();
        }
    }
}
