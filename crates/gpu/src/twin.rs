//! The kernels again as plain loops in f64, written from the formulas. Each takes and returns whole tensors, row-major.

mod nets;

pub(crate) use nets::*;

/// A result and the sum of the magnitudes of its terms, which bounds what rounding may do to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub value: f64,
    pub magnitude: f64,
}

impl Sum {
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
    }
}

fn wide(value: f32) -> f64 {
    f64::from(value)
}

/// Y [m, n] = X [m, k] Wᵀ [n, k] + R.
pub(crate) fn gemm_nt((m, k, n): (usize, usize, usize), x: &[f32], w: &[f32], residual: Option<&[f32]>) -> Vec<Sum> {
    let mut y = vec![Sum::default(); m * n];
    for row in 0..m {
        for col in 0..n {
            let sum = &mut y[row * n + col];
            for i in 0..k {
                sum.add(wide(x[row * k + i]) * wide(w[col * k + i]));
            }
            sum.add(residual.map_or(0.0, |residual| wide(residual[row * n + col])));
        }
    }
    y
}

/// dX [m, k] (+)= Σ dY [m, n] W [n, k] over `parts` of (n, dY, W).
pub(crate) fn gemm_nn(m: usize, k: usize, parts: &[(usize, Vec<f32>, Vec<f32>)], old: Option<&[f32]>) -> Vec<Sum> {
    let mut dx = vec![Sum::default(); m * k];
    for row in 0..m {
        for col in 0..k {
            let sum = &mut dx[row * k + col];
            sum.add(old.map_or(0.0, |old| wide(old[row * k + col])));
            for (n, dy, w) in parts {
                for i in 0..*n {
                    sum.add(wide(dy[row * n + i]) * wide(w[i * k + col]));
                }
            }
        }
    }
    dx
}

/// dW [n, k] = dYᵀ [m, n] X [m, k].
pub(crate) fn gemm_tn((m, k, n): (usize, usize, usize), x: &[f32], dy: &[f32]) -> Vec<Sum> {
    let mut dw = vec![Sum::default(); n * k];
    for row in 0..n {
        for col in 0..k {
            for i in 0..m {
                dw[row * k + col].add(wide(dy[i * n + row]) * wide(x[i * k + col]));
            }
        }
    }
    dw
}

/// (Y, rstd).
pub(crate) fn rmsnorm(cols: usize, x: &[f32], w: &[f32], eps: f32) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut rstds) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(cols) {
        let square = row.iter().map(|value| wide(*value).powi(2)).sum::<f64>() / cols as f64;
        let rstd = 1.0 / (square + wide(eps)).sqrt();
        y.extend(row.iter().zip(w).map(|(x, w)| wide(*x) * rstd * wide(*w)));
        rstds.push(rstd);
    }
    (y, rstds)
}

/// (dX, dW).
pub(crate) fn rmsnorm_backward(cols: usize, x: &[f32], w: &[f32], rstd: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<Sum>) {
    let (mut dx, mut dw) = (Vec::new(), vec![Sum::default(); cols]);
    for ((x, dy), rstd) in x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(rstd) {
        let rstd = wide(*rstd);
        let mean = (0..cols).map(|c| wide(w[c]) * wide(dy[c]) * wide(x[c])).sum::<f64>() / cols as f64;
        for c in 0..cols {
            dx.push(rstd * (wide(w[c]) * wide(dy[c]) - wide(x[c]) * rstd * rstd * mean));
            dw[c].add(wide(dy[c]) * wide(x[c]) * rstd);
        }
    }
    (dx, dw)
}

/// Rotates `heads` heads in each row of `x`; `table` is cosines, then sines, each [context, half].
pub(crate) fn rope(context: usize, heads: usize, head: usize, x: &[f64], table: &[f32]) -> Vec<f64> {
    rotate(context, heads, head, x, table, 1.0)
}

fn rotate(context: usize, heads: usize, head: usize, x: &[f64], table: &[f32], sign: f64) -> Vec<f64> {
    let half = head / 2;
    let mut y = x.to_vec();
    for (index, (y, x)) in y.chunks_exact_mut(head).zip(x.chunks_exact(head)).enumerate() {
        let position = index / heads % context;
        for i in 0..half {
            let cosine = wide(table[position * half + i]);
            let sine = sign * wide(table[(context + position) * half + i]);
            y[i] = x[i] * cosine - x[i + half] * sine;
            y[i + half] = x[i + half] * cosine + x[i] * sine;
        }
    }
    y
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub batch: usize,
    pub context: usize,
    pub heads: usize,
    pub keys: usize,
    pub head: usize,
}

impl Attention {
    /// Where a query head's vector starts.
    fn query(self, b: usize, t: usize, head: usize) -> usize {
        ((b * self.context + t) * self.heads + head) * self.head
    }

    /// Where the vector of the key head that serves a query head starts.
    fn key(self, b: usize, t: usize, head: usize) -> usize {
        ((b * self.context + t) * self.keys + head * self.keys / self.heads) * self.head
    }

    fn dot(self, a: &[f32], at: usize, b: &[f32], bt: usize) -> f64 {
        (0..self.head).map(|i| wide(a[at + i]) * wide(b[bt + i])).sum()
    }

    /// Every (batch, query head, query), in the order of the log-sum-exps.
    fn rows(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let each = move |b| (0..self.heads).flat_map(move |h| (0..self.context).map(move |t| (b, h, t)));
        (0..self.batch).flat_map(each)
    }

    /// Softmax over the keys up to `t`, and the log-sum-exp.
    fn probabilities(self, q: &[f32], k: &[f32], (b, h, t): (usize, usize, usize)) -> (Vec<f64>, f64) {
        let scale = 1.0 / (self.head as f64).sqrt();
        let scores: Vec<f64> =
            (0..=t).map(|j| self.dot(q, self.query(b, t, h), k, self.key(b, j, h)) * scale).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let lse = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
        (scores.iter().map(|score| (score - lse).exp()).collect(), lse)
    }
}

/// (O, log-sum-exp).
pub(crate) fn attention(shape: Attention, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut o, mut lses) = (vec![0.0; q.len()], Vec::new());
    for (b, h, t) in shape.rows() {
        let (probabilities, lse) = shape.probabilities(q, k, (b, h, t));
        for (j, p) in probabilities.iter().enumerate() {
            for i in 0..shape.head {
                o[shape.query(b, t, h) + i] += p * wide(v[shape.key(b, j, h) + i]);
            }
        }
        lses.push(lse);
    }
    (o, lses)
}

#[derive(Debug)]
pub(crate) struct AttentionGradients {
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub delta: Vec<f64>,
}

/// Gradients for the values that `rope` was given, from O's gradient.
pub(crate) fn attention_backward(
    shape: Attention,
    (q, k, v): (&[f32], &[f32], &[f32]),
    d_o: &[f32],
    table: &[f32],
) -> AttentionGradients {
    let scale = 1.0 / (shape.head as f64).sqrt();
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let mut deltas = Vec::new();
    for (b, h, t) in shape.rows() {
        let (p, _) = shape.probabilities(q, k, (b, h, t));
        let at = shape.query(b, t, h);
        let dp: Vec<f64> = (0..=t).map(|j| shape.dot(d_o, at, v, shape.key(b, j, h))).collect();
        let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for j in 0..=t {
            let key = shape.key(b, j, h);
            let ds = p[j] * (dp[j] - delta) * scale;
            for i in 0..shape.head {
                dq[at + i] += ds * wide(k[key + i]);
                dk[key + i] += ds * wide(q[at + i]);
                dv[key + i] += p[j] * wide(d_o[at + i]);
            }
        }
        deltas.push(delta);
    }
    AttentionGradients {
        dq: rotate(shape.context, shape.heads, shape.head, &dq, table, -1.0),
        dk: rotate(shape.context, shape.keys, shape.head, &dk, table, -1.0),
        dv,
        delta: deltas,
    }
}

fn sigmoid(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

pub(crate) fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f64> {
    gate.iter().zip(up).map(|(gate, up)| wide(*gate) * sigmoid(wide(*gate)) * wide(*up)).collect()
}

/// (d gate, d up).
pub(crate) fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let each = |((gate, up), dy): ((&f32, &f32), &f32)| {
        let (gate, up, dy) = (wide(*gate), wide(*up), wide(*dy));
        let s = sigmoid(gate);
        (dy * up * (s + gate * s * (1.0 - s)), dy * gate * s)
    };
    gate.iter().zip(up).zip(dy).map(each).unzip()
}

pub(crate) fn embed(cols: usize, table: &[f32], tokens: &[u32]) -> Vec<f64> {
    tokens.iter().flat_map(|token| &table[*token as usize * cols..][..cols]).map(|value| wide(*value)).collect()
}

/// dE, on top of `old` [vocabulary, cols].
pub(crate) fn embed_backward(cols: usize, tokens: &[u32], dx: &[f32], old: &[f32]) -> Vec<Sum> {
    let mut de: Vec<Sum> = old.iter().map(|old| Sum { value: wide(*old), magnitude: wide(old.abs()) }).collect();
    for (token, dx) in tokens.iter().zip(dx.chunks_exact(cols)) {
        for (c, dx) in dx.iter().enumerate() {
            de[*token as usize * cols + c].add(wide(*dx));
        }
    }
    de
}

/// (Losses of rows, gradient of the logits of the mean loss).
pub(crate) fn cross_entropy(vocab: usize, logits: &[f32], targets: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let (mut losses, mut gradient) = (Vec::new(), Vec::new());
    for (logits, target) in logits.chunks_exact(vocab).zip(targets) {
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let total: f64 = logits.iter().map(|logit| (wide(*logit) - wide(largest)).exp()).sum();
        let lse = wide(largest) + total.ln();
        losses.push(lse - wide(logits[*target as usize]));
        for (c, logit) in logits.iter().enumerate() {
            let hit = if c == *target as usize { 1.0 } else { 0.0 };
            gradient.push(((wide(*logit) - lse).exp() - hit) / targets.len() as f64);
        }
    }
    (losses, gradient)
}

/// Sums of squares of the shares of `groups` workgroups, which take 64 values each in turn.
pub(crate) fn square_sum(values: &[f32], groups: usize) -> Vec<f64> {
    let mut sums = vec![0.0; groups];
    for (index, value) in values.iter().enumerate() {
        sums[index / 64 % groups] += wide(*value).powi(2);
    }
    sums
}

/// (Mean loss, factor that clips the gradients' norm to `clip`, where 0 is no clipping).
pub(crate) fn finish(row_losses: &[f32], squares: &[f32], clip: f32) -> (f64, f64) {
    let loss = row_losses.iter().copied().map(wide).sum::<f64>() / row_losses.len() as f64;
    let norm = squares.iter().copied().map(wide).sum::<f64>().sqrt();
    (loss, if clip > 0.0 { (wide(clip) / (norm + 1e-6)).min(1.0) } else { 1.0 })
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub step: i32,
}

/// (parameter, first moment, second moment) after a step with gradient `g`.
pub(crate) fn adamw(adam: Adam, g: f64, (p, m, v): (f32, f32, f32)) -> [f64; 3] {
    let [lr, beta1, beta2] = [adam.lr, adam.beta1, adam.beta2].map(wide);
    let m = beta1 * wide(m) + (1.0 - beta1) * g;
    let v = beta2 * wide(v) + (1.0 - beta2) * g * g;
    let m_hat = m / (1.0 - beta1.powi(adam.step));
    let v_hat = v / (1.0 - beta2.powi(adam.step));
    let p = wide(p) * (1.0 - lr * wide(adam.weight_decay));
    [p - lr * m_hat / (v_hat.sqrt() + wide(adam.eps)), m, v]
}

/// (parameter, momentum) after a step of stochastic gradient descent with gradient `g`.
pub(crate) fn sgd((lr, momentum, nesterov): (f32, f32, bool), decay: f32, g: f64, (p, m): (f32, f32)) -> [f64; 2] {
    let g = g + wide(decay) * wide(p);
    let m = wide(momentum) * wide(m) + g;
    [wide(p) - wide(lr) * if nesterov { g + wide(momentum) * m } else { m }, m]
}

/// (momentum, direction) of a matrix with gradients `g`, already clipped.
pub(crate) fn muon_momentum(momentum: f32, nesterov: bool, g: &[f64], m: &[f32]) -> (Vec<Sum>, Vec<Sum>) {
    let each = |(g, m): (&f64, &f32)| {
        let (mut next, mut direction) = (Sum::default(), Sum::default());
        let rest = 1.0 - wide(momentum);
        next.add(wide(momentum) * wide(*m));
        next.add(rest * g);
        if nesterov {
            direction.add(rest * g);
            direction.add(wide(momentum) * next.value);
        } else {
            direction = next;
        }
        (next, direction)
    };
    g.iter().zip(m).map(each).unzip()
}

/// A matrix over its Frobenius norm, of which `squares` are parts; a tall one turned on its side.
pub(crate) fn muon_load((rows, cols): (usize, usize), squares: &[f32], least_norm: f32, x: &[f32]) -> Vec<f64> {
    let norm = squares.iter().copied().map(wide).sum::<f64>().sqrt().max(wide(least_norm));
    let scaled: Vec<f64> = x.iter().map(|x| wide(*x) / norm).collect();
    if rows > cols { turned((rows, cols), &scaled) } else { scaled }
}

/// Columns become rows.
fn turned((rows, cols): (usize, usize), x: &[f64]) -> Vec<f64> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| x[row * cols + col])).collect()
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MuonRate {
    pub lr: f32,
    pub weight_decay: f32,
    pub scale: f32,
}

/// Parameters after a step along the orthogonal direction `x`, in which a tall matrix lies on its side.
pub(crate) fn muon_apply((rows, cols): (usize, usize), rate: MuonRate, p: &[f32], x: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = x.iter().copied().map(wide).collect();
    let x = if rows > cols { turned((cols, rows), &x) } else { x };
    let MuonRate { lr, weight_decay, scale } = rate;
    let kept = 1.0 - wide(lr) * wide(weight_decay);
    p.iter().zip(x).map(|(p, x)| wide(*p) * kept - wide(lr) * wide(scale) * x).collect()
}
