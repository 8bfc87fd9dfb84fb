// The landing page's interactive figure, without a kernel: where a parametrization lies, and what width does to it.
// One file, no library, no request: it works from file:// and on a phone, with a mouse, a finger or a keyboard.
//
// The mathematics is in `lab` (tested against tp4lib in a headless Chromium), the drawing in `mount`.
(() => {
  'use strict';

  // -- abc-parametrizations (Yang & Hu, section 3) --------------------------------------------------------------

  const CLOSE = 1e-9;  // a sum of exponents this close to a bound is on it

  // r = min(a_{L+1} + b_{L+1}, 2 a_{L+1} + c) + c - 1 + min_l (2 a_l + [l = 1]); features move like n^-r.
  function exponentR(a, b, c) {
    const L = a.length - 1;
    const hidden = Math.min(...a.slice(0, L).map((value, l) => 2 * value + (l === 0 ? 1 : 0)));
    return Math.min(a[L] + b[L], 2 * a[L] + c) + c - 1 + hidden;
  }

  function regime(a, b, c) {
    const L = a.length - 1, r = exponentR(a, b, c), on = (x, y) => Math.abs(x - y) <= CLOSE;
    const readout = a[L] + b[L], update = 2 * a[L] + c;
    const atInit = a.slice(0, L).every((value, l) => on(value + b[l], l === 0 ? 0 : 0.5));
    if (!atInit || readout < 0.5 - CLOSE || r < -CLOSE || update < 1 - CLOSE || readout + r < 1 - CLOSE)
      return 'unstable';
    if (!on(update, 1) && !on(readout + r, 1)) return 'trivial';
    return r <= CLOSE ? 'feature learning' : 'kernel';
  }

  // With hidden layers stable at initialization, all depends on three sums that the symmetry leaves alone:
  // p = a_{L+1} + b_{L+1} (readout at initialization), q = 2 a_{L+1} + c (its update), m = c + min_l (2 a_l + [l = 1]).
  // Of every orbit this is the member with c = 0, at L = 2.
  const exponents = (p, q, m) =>
    ({ a: [(m - 1) / 2, m / 2, q / 2], b: [(1 - m) / 2, (1 - m) / 2, p - q / 2], c: 0 });

  // -- networks of one hidden layer, f(x) = sum_i v_i tanh(u_i . (x, 1)) times 1/n (muP) or 1/sqrt(n) (NTP) -------

  const INPUTS = [-1.5, -0.9, -0.3, 0.3, 0.9, 1.5], TARGETS = INPUTS.map(x => Math.sin(2 * x));
  const RATE = 1.2, STEPS = 60, AT = 0.9;  // AT: the input whose preactivations the histogram shows
  const GRID = Array.from({ length: 43 }, (_, k) => -2.1 + 4.2 * k / 42);

  function generator(seed) {  // mulberry32, and Gaussians from it by Box and Muller
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6D2B79F5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), 1 | state);
      z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
      return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
    };
    return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  }

  // Weights (u, bias, v) of n units, all N(0, 1).
  function sampled(n, seed) {
    const gauss = generator(seed * 7919 + n), w = new Float64Array(3 * n);
    for (let i = 0; i < 3 * n; i++) w[i] = gauss();
    return w;
  }

  // Gauss-Hermite nodes and weights for E f(Z), Z ~ N(0, 1): Newton's method on the orthonormal polynomials.
  function hermite(count) {
    const nodes = [], weights = [];
    for (let k = 0; k < count; k++) {
      let z = k === 0 ? Math.sqrt(2 * count + 1) - 1.85575 * Math.pow(2 * count + 1, -1 / 6)
        : k === 1 ? nodes[0] - 1.14 * Math.pow(count, 0.426) / nodes[0]
        : k === 2 ? 1.86 * nodes[1] - 0.86 * nodes[0]
        : k === 3 ? 1.91 * nodes[2] - 0.91 * nodes[1] : 2 * nodes[k - 1] - nodes[k - 2];
      let slope = 1;
      for (let turn = 0; turn < 60; turn++) {
        let now = Math.pow(Math.PI, -0.25), before = 0;
        for (let j = 0; j < count; j++)
          [now, before] = [z * Math.sqrt(2 / (j + 1)) * now - Math.sqrt(j / (j + 1)) * before, now];
        slope = Math.sqrt(2 * count) * before;
        const move = now / slope;
        z -= move;
        if (Math.abs(move) < 1e-14) break;
      }
      nodes.push(z);
      weights.push(2 / (slope * slope) / Math.sqrt(Math.PI));
    }
    return { nodes: nodes.map(z => z * Math.SQRT2), weights };
  }

  // The limit in muP is the same training with the Gaussians of (u, bias, v) in place of n units: a quadrature with
  // `count`^3 nodes, each with its probability as weight.
  function quadrature(count) {
    const { nodes, weights } = hermite(count), n = count ** 3;
    const w = new Float64Array(3 * n), mass = new Float64Array(n);
    let i = 0;
    for (let x = 0; x < count; x++) for (let y = 0; y < count; y++) for (let z = 0; z < count; z++, i++) {
      w[3 * i] = nodes[x]; w[3 * i + 1] = nodes[y]; w[3 * i + 2] = nodes[z];
      mass[i] = weights[x] * weights[y] * weights[z];
    }
    return { w, mass };
  }

  const tanh = x => 1 - 2 / (Math.exp(2 * x) + 1);  // several times faster than Math.tanh, and as exact here

  // f at the inputs `xs`. `mass` holds each unit's share: 1/n for a network, the probability of a node for the limit.
  // The units' activations are left in `phi`, where it is given.
  function outputs(w, xs, scale, mass, phi) {
    const f = new Float64Array(xs.length);
    for (let i = 0, j = 0; i < w.length; i += 3) {
      const v = w[i + 2] * (mass ? mass[i / 3] : scale);
      for (let k = 0; k < xs.length; k++) {
        const x = tanh(w[i] * xs[k] + w[i + 1]);
        if (phi) phi[j++] = x;
        f[k] += v * x;
      }
    }
    return f;
  }

  // Gradient descent on the mean of (f - f_0 - y)^2 / 2 in all weights `w`, which change. f_0, the network's own
  // function at initialization, is subtracted, so that every width starts from f = 0.
  // muP: the scale is 1/n and the rate n; NTP: the scale is 1/sqrt(n) and the rate 1.
  class Training {
    constructor(w, kind, mass) {
      const n = w.length / 3, scale = kind === 'muP' ? 1 / n : 1 / Math.sqrt(n);
      Object.assign(this, { w, mass, scale, steps: 0, errors: [] });
      this.pull = RATE * (kind === 'muP' ? 1 : scale);  // rate times scale: what moves a unit
      this.first = outputs(w, INPUTS, scale, mass);
      this.firstGrid = outputs(w, GRID, scale, mass);
    }

    until(steps) {
      if (this.steps < steps) this.phi ??= new Float64Array(this.w.length / 3 * INPUTS.length);
      for (; this.steps < steps; this.steps++) {
        const f = outputs(this.w, INPUTS, this.scale, this.mass, this.phi);
        this.errors.push(f.map((value, k) => (value - this.first[k] - TARGETS[k]) / INPUTS.length));
        move(this.w, this.errors[this.steps], this.pull, this.phi);
      }
      return this;
    }

    get f() {
      return outputs(this.w, GRID, this.scale, this.mass).map((value, k) => value - this.firstGrid[k]);
    }
  }

  const train = (w, steps, kind, mass) => new Training(w, kind, mass).until(steps);

  // One step of gradient descent of every unit, given the errors (f - f_0 - y) / K at the inputs.
  function move(w, error, pull, known) {
    const K = INPUTS.length;
    for (let i = 0, j = 0; i < w.length; i += 3) {
      const u = w[i], bias = w[i + 1], v = w[i + 2];
      let du = 0, db = 0, dv = 0;
      for (let k = 0; k < K; k++) {
        const phi = known ? known[j++] : tanh(u * INPUTS[k] + bias), back = error[k] * v * (1 - phi * phi);
        du += back * INPUTS[k]; db += back; dv += error[k] * phi;
      }
      w[i] -= pull * du; w[i + 1] -= pull * db; w[i + 2] -= pull * dv;
    }
  }

  // The limit in NTP: gradient descent in the function space of the neural tangent kernel at initialization.
  function kernelLimit(steps, nodes) {
    const all = [...INPUTS, ...GRID], K = INPUTS.length, kernel = nodes.kernel ??= tangentKernel(nodes, all);
    const f = new Float64Array(all.length);
    for (let t = 0; t < steps; t++) {
      const error = TARGETS.map((y, k) => (f[k] - y) / K);
      for (let j = 0; j < all.length; j++)
        for (let k = 0; k < K; k++) f[j] -= RATE * kernel[j][k] * error[k];
    }
    return { f: f.slice(K) };
  }

  // The neural tangent kernel of `all` inputs with the training inputs, which come first.
  function tangentKernel({ w, mass }, all) {
    const K = INPUTS.length;
    const kernel = Array.from({ length: all.length }, () => new Float64Array(K));
    const phi = new Float64Array(all.length);
    for (let i = 0; i < mass.length; i++) {
      const v = w[3 * i + 2];
      for (let j = 0; j < all.length; j++) phi[j] = tanh(w[3 * i] * all[j] + w[3 * i + 1]);
      for (let j = 0; j < all.length; j++) for (let k = 0; k < K; k++)
        kernel[j][k] += mass[i] * (phi[j] * phi[k]
          + v * v * (1 - phi[j] ** 2) * (1 - phi[k] ** 2) * (all[j] * all[k] + 1));
    }
    return kernel;
  }

  const BINS = 36, REACH = 4.5;
  // The density of the preactivations u . (AT, 1) on BINS bins of [-REACH, REACH].
  function density(w, mass, smooth = 0) {
    const n = w.length / 3, d = new Float64Array(BINS), width = 2 * REACH / BINS;
    for (let i = 0; i < n; i++) {
      const h = w[3 * i] * AT + w[3 * i + 1], share = mass ? mass[i] : 1 / n;
      if (!smooth) {
        const bin = Math.floor((h + REACH) / width);
        if (bin >= 0 && bin < BINS) d[bin] += share / width;
      } else for (let bin = 0; bin < BINS; bin++) {
        const z = ((bin + 0.5) * width - REACH - h) / smooth;
        if (Math.abs(z) < 5) d[bin] += share * Math.exp(-z * z / 2) / (smooth * Math.sqrt(2 * Math.PI));
      }
    }
    return d;
  }
  // How far the preactivations have moved: root mean square over the units.
  function movement(before, after, mass) {
    let sum = 0;
    const n = before.length / 3;
    for (let i = 0; i < n; i++) {
      const move = (after[3 * i] - before[3 * i]) * AT + after[3 * i + 1] - before[3 * i + 1];
      sum += move * move * (mass ? mass[i] : 1 / n);
    }
    return Math.sqrt(sum);
  }
  const rms = (f, g) => Math.sqrt(f.reduce((sum, value, k) => sum + (value - g[k]) ** 2, 0) / f.length);

  const lab = { regime, exponentR, exponents, hermite, quadrature, sampled, train, kernelLimit, outputs, density,
    movement, rms, INPUTS, TARGETS, GRID, RATE, STEPS, AT };
  window.tp4lab = lab;

  // -- drawing ------------------------------------------------------------------------------------------------------

  const STYLE = `
    :host { display: block; color: inherit; font: inherit; }
    .panels { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
    .card { border: 1px solid var(--pst-color-border, #c9c9c9); border-radius: .5rem; padding: .9rem 1rem; min-width: 0; }
    h2 { font-size: 1.15rem; line-height: 1.3; margin: 0 0 .4rem; font-weight: 600; }
    p { margin: .35rem 0; line-height: 1.45; font-size: .95rem; }
    svg { width: 100%; max-width: 34rem; margin: 0 auto; height: auto; display: block; touch-action: pan-y; }
    text { fill: currentColor; font: 12px system-ui, sans-serif; }
    label { display: grid; grid-template-columns: 1fr auto; font-size: .92rem; margin-top: .45rem; }
    input { grid-column: 1 / 3; width: 100%; height: 1.6rem; accent-color: var(--mup); margin: 0; }
    button { font: inherit; font-size: .9rem; color: inherit; background: none; border: 1px solid currentColor;
      border-radius: .3rem; padding: .3rem .6rem; margin: .25rem .35rem .1rem 0; cursor: pointer; min-height: 2rem; }
    button[aria-pressed=true] { background: var(--mup-ink); border-color: var(--mup-ink); color: #fff; }
    output { font-variant-numeric: tabular-nums; }
    .verdict { font-weight: 600; font-size: 1.02rem; min-height: 1.5em; }
    .exponents { font-variant-numeric: tabular-nums; opacity: 1; font-size: .88rem; min-height: 2.6em; }
    .two { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); }
    :host { --mup: #0072b2; --ntp: #e69f00; --mup-ink: #00639b; --ntp-ink: #8a5c00; }
    :host([dark]) { --mup: #4cb3ee; --ntp: #f2b632; --ntp-ink: #f2b632; }
    .wide { grid-column: 1 / -1; }`;

  const svgNode = (name, attributes = {}, inside = '') => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (inside) node.textContent = inside;
    return node;
  };
  const path = points => 'M' + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join('L');
  const minus = x => String(x).replace('-', '\u2212');
  const fraction = x => {  // quarters and eighths read better as fractions
    for (const d of [1, 2, 4, 8]) if (Math.abs(x * d - Math.round(x * d)) < 1e-9) {
      const n = Math.round(x * d);
      return minus(d === 1 || n === 0 ? n / d : `${n}/${d}`);
    }
    return minus(x.toFixed(3));
  };

  // The polyhedron of stable parametrizations in (p, q, m), seen from outside. Its nontrivial part is two faces.
  function polyhedron(root) {
    const HIGH = { p: 1.75, q: 1.75, m: 1.25 };
    const point = { p: 1, q: 1, m: 0 };
    const project = (p, q, m) => [62 + 150 * (p - 0.5) + 92 * (q - 1), 236 - 128 * m - 62 * (q - 1)];
    const svg = root.querySelector('svg');
    const polygon = (corners, fill, opacity) => svg.append(svgNode('path',
      { d: path(corners.map(c => project(...c))) + 'Z', fill, 'fill-opacity': opacity, stroke: 'currentColor',
        'stroke-opacity': 0.45, 'stroke-width': 1 }));
    const { p: P, q: Q, m: M } = HIGH;
    polygon([[0.5, Q, 1], [1, Q, 0], [P, Q, 0], [P, Q, M], [0.5, Q, M]], 'currentColor', 0.04);  // beyond: all trivial
    polygon([[1, 1, 0], [P, 1, 0], [P, Q, 0], [1, Q, 0]], 'currentColor', 0.07);
    polygon([[0.5, 1, 1], [1, 1, 0], [1, Q, 0], [0.5, Q, 1]], 'var(--ntp)', 0.35);
    polygon([[0.5, 1, 1], [1, 1, 0], [P, 1, 0], [P, 1, M], [0.5, 1, M]], 'var(--ntp)', 0.35);
    for (const end of [[P, 1, 0], [1, Q, 0]]) svg.append(svgNode('path',
      { d: path([project(1, 1, 0), project(...end)]), stroke: 'var(--mup)', 'stroke-width': 5, 'stroke-linecap': 'round' }));
    const word = (at, text, dx, dy, anchor = 'start', attributes = {}) => {
      const [x, y] = project(...at);
      svg.append(svgNode('text', { x: x + dx, y: y + dy, 'text-anchor': anchor, ...attributes }, text));
    };
    word([1, 1, 0], '\u03bcP', -10, 20, 'end', { 'font-weight': 700 });
    word([0.5, 1, 1], 'NTP', -6, 5, 'end', { 'font-weight': 700 });
    word([1.38, 1, 0], 'features are learned', 0, 22, 'middle');
    word([1.15, 1, 0.62], 'kernel', 0, 0, 'middle');
    word([1.35, Q, 1], 'inside: trivial', 0, -4, 'middle');
    const axis = (text, x, y, dx, dy) => {
      svg.append(svgNode('path', { d: `M${x},${y}l${dx},${dy}`, stroke: 'currentColor', 'stroke-opacity': 0.6 }));
      svg.append(svgNode('text', { x: x + 1.35 * dx - 3, y: y + 1.35 * dy + 4, 'font-style': 'italic' }, text));
    };
    axis('p', 320, 240, 28, 0); axis('q', 320, 240, 20, -13.5); axis('m', 320, 240, 0, -24);
    const line = svgNode('path', { stroke: 'currentColor', 'stroke-dasharray': '3 3', fill: 'none' });
    const dot = svgNode('circle', { r: 8, stroke: 'Canvas', 'stroke-width': 2 });
    svg.append(line, dot);

    const NAMED = { '\u03bcP': [1, 1, 0], 'NTP': [0.5, 1, 1], 'SP, rate 1/n': [0.5, 1, 1], 'SP': [0.5, 0, 0] };
    const WORDS = {
      'feature learning': 'Features are learned: the hidden layers move by an amount that does not vanish with the width.',
      kernel: 'Kernel regime: in the limit training is kernel gradient descent, and the features stay as they were.',
      trivial: 'Trivial: in the limit nothing moves, not even the output.',
      unstable: 'Unstable: activations or outputs blow up with the width.' };
    const INK = { 'feature learning': 'var(--mup)', kernel: 'var(--ntp)', trivial: 'currentColor', unstable: '#d55e00' };
    const sliders = Object.fromEntries(['p', 'q', 'm'].map(key => [key, root.querySelector(`[name=${key}]`)]));
    const buttons = root.querySelector('.named');
    for (const [name, [p, q, m]] of Object.entries(NAMED)) {
      const button = Object.assign(document.createElement('button'), { type: 'button', textContent: name });
      button.addEventListener('click', () => { Object.assign(point, { p, q, m }); show(); });
      buttons.append(button);
    }
    function show() {
      const { a, b, c } = exponents(point.p, point.q, point.m), kind = regime(a, b, c), r = exponentR(a, b, c);
      for (const key of ['p', 'q', 'm']) {
        sliders[key].value = point[key];
        sliders[key].setAttribute('aria-valuetext', fraction(point[key]));
        root.querySelector(`output[name=${key}-shown]`).textContent = fraction(point[key]);
      }
      for (const button of buttons.children)
        button.setAttribute('aria-pressed', NAMED[button.textContent].every((v, k) => v === [point.p, point.q, point.m][k]));
      const [x, y] = project(point.p, point.q, point.m), [gx, gy] = project(point.p, point.q, 0);
      dot.setAttribute('cx', x); dot.setAttribute('cy', y); dot.setAttribute('fill', INK[kind]);
      line.setAttribute('d', path([[gx, gy], [x, y]]));
      root.querySelector('.verdict').textContent = WORDS[kind];
      const feature = kind === 'unstable' ? '' : r === 0 ? ' Features move by as much at every width.'
        : ` Features move like n<sup>${fraction(-r)}</sup>.`;
      root.querySelector('.exponents').innerHTML = `r = ${fraction(r)}.${feature} With two hidden layers, for example: `
        + `a = (${a.map(fraction).join(', ')}), b = (${b.map(fraction).join(', ')}), c = 0.`;
      svg.setAttribute('aria-label', `The polyhedron of stable parametrizations; the point shown is ${kind}.`);
    }
    for (const [key, slider] of Object.entries(sliders))
      slider.addEventListener('input', () => { point[key] = Number(slider.value); show(); });
    // Dragging moves p and m, along the front face.
    const drag = event => {
      const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
      const x = (event.clientX - box.left) * view.width / box.width, y = (event.clientY - box.top) * view.height / box.height;
      const snap = (value, low, high) => Math.min(high, Math.max(low, Math.round(value * 16) / 16));
      point.p = snap((x - 62 - 92 * (point.q - 1)) / 150 + 0.5, 0.25, P);
      point.m = snap((236 - 62 * (point.q - 1) - y) / 128, -0.25, M);
      show();
    };
    svg.addEventListener('pointerdown', event => { svg.setPointerCapture(event.pointerId); drag(event); });
    svg.addEventListener('pointermove', event => { if (svg.hasPointerCapture(event.pointerId)) drag(event); });
    show();
    return { point, show };
  }

  // Networks of width n beside their limit, muP and NTP: functions above, the law of the preactivations below.
  function widths(root) {
    const SEEDS = 5, X = x => 30 + (x + 2.1) / 4.2 * 320, Y = y => 92 - 54 * y, H = h => 30 + (h + REACH) / (2 * REACH) * 320;
    const nodes = quadrature(16), MANY = 8192, many = sampled(MANY, 1);
    // The law at initialization is N(0, AT^2 + 1). In muP's limit each unit moves by the errors of the limit alone, so
    // its law later on is that of many independent units moved so, drawn as a smoothed histogram.
    const variance = AT * AT + 1, start = Float64Array.from({ length: BINS }, (_, bin) =>
      Math.exp(-(((bin + 0.5) * 2 * REACH / BINS - REACH) ** 2) / 2 / variance) / Math.sqrt(2 * Math.PI * variance));
    const limits = new Map();  // by kind and number of steps
    // Training goes on from where it was, if it can: an animation costs one step a frame.
    let infinite;
    const muPLimit = steps => {
      if (!infinite || infinite.training.steps > steps)
        infinite = { training: new Training(nodes.w.slice(), 'muP', nodes.mass), units: many.slice() };
      const { training, units } = infinite, done = training.steps, { w, f, errors } = training.until(steps);
      errors.slice(done).forEach(error => move(units, error, RATE));
      return { f, law: steps ? density(units, null, 0.18) : start, moved: movement(nodes.w, w, nodes.mass) };
    };
    const limit = (kind, steps) => {
      const key = `${kind} ${steps}`;
      if (!limits.has(key))
        limits.set(key, kind === 'muP' ? muPLimit(steps) : { ...kernelLimit(steps, nodes), law: start, moved: 0 });
      return limits.get(key);
    };
    const panels = ['muP', 'NTP'].map(kind => {
      const svg = root.querySelector(`svg[data-kind=${kind}]`), ink = kind === 'muP' ? 'var(--mup)' : 'var(--ntp)';
      const draw = (attributes = {}) => { const node = svgNode('path', { fill: 'none', ...attributes }); svg.append(node); return node; };
      const fan = Array.from({ length: SEEDS }, () => draw({ stroke: ink, 'stroke-width': 1.6, 'stroke-opacity': 0.85 }));
      const line = draw({ stroke: 'currentColor', 'stroke-width': 2.4 });
      INPUTS.forEach((x, k) => svg.append(svgNode('circle', { cx: X(x), cy: Y(TARGETS[k]), r: 3.6, fill: 'none', stroke: 'currentColor', 'stroke-width': 1.5 })));
      const bars = draw({ fill: ink, 'fill-opacity': 0.55 });
      const before = draw({ stroke: 'currentColor', 'stroke-dasharray': '4 4', 'stroke-width': 1.4 });
      const law = draw({ stroke: 'currentColor', 'stroke-width': 2.4 });
      draw({ d: 'M30,300H350', stroke: 'currentColor', 'stroke-opacity': 0.4 });
      svg.append(svgNode('text', { x: 30, y: 16 }, 'the function, at five initializations'));
      svg.append(svgNode('text', { x: 30, y: 196 }, `preactivations at x = ${AT}`));
      return { kind, svg, fan, line, bars, before, law, said: root.querySelector(`p[data-kind=${kind}]`) };
    });
    const curve = d => path([...d].map((value, bin) => [H((bin + 0.5) * 2 * REACH / BINS - REACH), 300 - 200 * value]));
    const width = root.querySelector('[name=width]'), steps = root.querySelector('[name=steps]');
    // So do networks, one of each width: who drags the width back and forth waits for none twice.
    const kept = new Map();
    const network = (kind, n, seed, steps) => {
      const key = `${kind} ${n} ${seed}`;
      let known = kept.get(key);
      if (!known || known.training.steps > steps) {
        const initial = known ? known.initial : sampled(n, seed);
        kept.set(key, known = { initial, training: new Training(initial.slice(), kind) });
      }
      const { w, steps: before } = known.training;
      if (!known.f || before < steps) known.f = known.training.until(steps).f;
      return { w, f: known.f, initial: known.initial };
    };
    function show() {
      const n = 2 ** Number(width.value), t = Number(steps.value);
      for (const panel of panels) {
        const target = limit(panel.kind, t);
        let far = 0, moved = 0, law;
        panel.fan.forEach((node, seed) => {
          const { w, initial, f } = network(panel.kind, n, seed, t);
          node.setAttribute('d', path(GRID.map((x, k) => [X(x), Math.min(176, Math.max(4, Y(f[k])))])));
          far += rms(f, target.f) / SEEDS;
          moved += movement(initial, w) / SEEDS;
          if (seed === 0) law = density(w);
        });
        panel.line.setAttribute('d', path(GRID.map((x, k) => [X(x), Y(target.f[k])])));
        panel.bars.setAttribute('d', [...law].map((value, bin) => {
          const low = H(bin * 2 * REACH / BINS - REACH), size = 320 / BINS - 1, height = Math.min(100, 200 * value);
          return height > 0 ? `M${low.toFixed(1)},300h${size.toFixed(1)}v${(-height).toFixed(1)}h${(-size).toFixed(1)}z` : '';
        }).join(''));
        panel.before.setAttribute('d', curve(start));
        panel.law.setAttribute('d', curve(target.law));
        panel.said.textContent = `Distance to the limit ${far.toFixed(2)}; features moved by ${moved.toFixed(2)} (in the limit ${target.moved.toFixed(2)}).`;
        panel.svg.setAttribute('aria-label', `${panel.kind}, width ${n}, ${t} steps: functions of five networks and of width infinity; below, the distribution of the preactivations. ${panel.said.textContent}`);
      }
      root.querySelector('output[name=width-shown]').textContent = `n = ${n}`;
      root.querySelector('output[name=steps-shown]').textContent = t;
      width.setAttribute('aria-valuetext', `width ${n}`);
    }
    let asked = false;
    const soon = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; show(); }); } };
    width.addEventListener('input', soon);
    steps.addEventListener('input', soon);
    const play = root.querySelector('.play');
    play.addEventListener('click', () => {
      let t = 0;
      const frame = () => { steps.value = t; show(); if (t < STEPS) { t += 1; requestAnimationFrame(frame); } };
      requestAnimationFrame(frame);
    });
    show();
    return { show };
  }

  function mount(host) {
    const root = host.attachShadow({ mode: 'open' });
    root.innerHTML = `<style>${STYLE}</style><div class="panels">
      <section class="card wide" data-part="space"><h2>Which wide networks learn features?</h2>
        <div class="two"><div><svg viewBox="0 0 384 274" role="img"></svg></div>
        <div><p>Three exponents of the width n decide. Drag the point, use the sliders, or go to a named one.</p>
        <div class="named"></div>
        <label><span>readout at initialization, n<sup>\u2212p</sup></span><output name="p-shown"></output>
          <input type="range" name="p" min="0.25" max="1.75" step="0.0625" aria-label="p, the readout at initialization"></label>
        <label><span>update of the readout, n<sup>\u2212q</sup></span><output name="q-shown"></output>
          <input type="range" name="q" min="0" max="1.75" step="0.0625" aria-label="q, the update of the readout"></label>
        <label><span>updates of the hidden layers, n<sup>\u2212m</sup></span><output name="m-shown"></output>
          <input type="range" name="m" min="-0.25" max="1.25" step="0.0625" aria-label="m, the updates of the hidden layers"></label>
        <p class="verdict" aria-live="polite"></p><p class="exponents"></p></div></div></section>
      <section class="card wide" data-part="widths"><h2>What does the width do?</h2>
        <p>Five networks (colour) and the network of width infinity (thick line), trained on six points. Dashed: the preactivations at initialization.</p>
        <div class="two"><div><p><strong>\u03bcP: the features move</strong></p><svg data-kind="muP" viewBox="20 0 340 304" role="img"></svg><p data-kind="muP"></p></div>
        <div><p><strong>NTP: they stay</strong></p><svg data-kind="NTP" viewBox="20 0 340 304" role="img"></svg><p data-kind="NTP"></p></div></div>
        <label><span>width</span><output name="width-shown"></output>
          <input type="range" name="width" min="3" max="10" step="1" value="4" aria-label="width"></label>
        <label><span>steps of gradient descent</span><output name="steps-shown"></output>
          <input type="range" name="steps" min="0" max="${STEPS}" step="1" value="${STEPS}" aria-label="steps"></label>
        <button type="button" class="play">Train again</button></section></div>`;
    const dark = () => host.toggleAttribute('dark', document.documentElement.dataset.theme === 'dark');
    new MutationObserver(dark).observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
    dark();
    host.parts = { space: polyhedron(root.querySelector('[data-part=space]')), widths: widths(root.querySelector('[data-part=widths]')) };
  }

  const begin = () => document.querySelectorAll('[data-tp4-lab]').forEach(mount);
  document.readyState === 'loading' ? document.addEventListener('DOMContentLoaded', begin) : begin();
})();
