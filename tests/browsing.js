// What a reader would trip over, found in the page itself; run by browsing.py. Contrast follows WCAG 2: at least 4.5,
// or 3 for large text.
const done = arguments[arguments.length - 1];
const typeset = window.MathJax?.startup?.promise ?? Promise.resolve();
const images = [...document.images].map(i => (i.loading = 'eager', i.decode().catch(() => {})));
Promise.all([typeset, document.fonts.ready, ...images]).then(() => {
  document.getAnimations().forEach(a => a.finish());  // colours that fade from light to dark
  const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
  const brief = e => (e.outerHTML || '').slice(0, 120);
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());)
    if (node.data.trim() && !node.parentElement.closest('script, style, noscript, mjx-container, math'))
      texts.push(node);
  const prose = texts.filter(t => !t.parentElement.closest('pre, code, kbd, .doctest'));
  const colour = c => { const m = c.match(/[\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(linear);
    return .2126 * r + .7152 * g + .0722 * b; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = e => { const layers = [];
    for (; e; e = e.parentElement) { const c = colour(getComputedStyle(e).backgroundColor);
      if (c[3]) layers.push(c); if (c[3] === 1) break; }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]); };
  const faint = new Map();
  for (const t of texts) {
    const e = t.parentElement; if (!shown(e)) continue;
    const style = getComputedStyle(e), ground = behind(e), ink = over(colour(style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const ratio = (high + .05) / (low + .05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5) - .005)
      faint.set(brief(e), `${ratio.toFixed(2)} "${t.data.trim().slice(0, 40)}" ${brief(e)}`);
  }
  const wide = document.scrollingElement, limit = wide.clientWidth;
  const sticks = wide.scrollWidth > limit + 1 ? [...document.querySelectorAll('body *')]
    .filter(e => shown(e) && e.getBoundingClientRect().right > limit + 1).slice(0, 5).map(brief) : [];
  // Tables whose cells have to be scrolled into sight.
  const cut = [...document.querySelectorAll('table')].filter(t => shown(t) && t.getBoundingClientRect().right > limit + 1
    || shown(t) && [...(t.closest('.pst-scrollable-table-container, .output')?.children ?? [])].some(
      c => c.contains(t) && c.parentElement.scrollWidth > c.parentElement.clientWidth + 1)).map(brief);
  done({
    math: document.querySelectorAll('.math, math').length,
    typeset: document.querySelectorAll('mjx-container, math').length,
    errors: [...document.querySelectorAll('mjx-merror, [data-mjx-error], merror')].map(brief),
    raw: prose.map(t => t.data).filter(s => /\$|\\\(|\\\[|\\begin\{|\{\{|<!--/.test(s)).map(s => s.trim().slice(0, 120)),
    images: [...document.images].map(
      i => ({src: i.src.slice(0, 100), loaded: i.complete && i.naturalWidth > 0, alt: i.alt})),
    // Of a link in a drawing (SVG), `href` is an object, and its address is as it was written.
    links: [...document.querySelectorAll('a[href]')].map(a => new URL(a.getAttribute('href'), document.baseURI).href),
    title: document.title, headings: [...document.querySelectorAll('h1')].filter(shown).length,
    cut, overflow: sticks, scroll: wide.scrollWidth - limit,
    faint: [...faint.values()],
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
  });
});
