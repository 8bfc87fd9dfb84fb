// On a phone a row of a table becomes a card, each number under the name of its column (gallery.css): nothing has to be
// scrolled into sight. The names come from the table's head; without JavaScript the table scrolls.
(() => {
  'use strict';

  function name(table) {
    const heads = [...table.querySelectorAll(':scope > thead > tr:last-child > *')];
    const rows = [...table.querySelectorAll(':scope > tbody > tr')];
    if (heads.length < 2 || rows.some(row => row.children.length !== heads.length)) return;
    for (const row of rows) [...row.children].forEach((cell, column) => {
      if (!cell.textContent.trim() && !cell.querySelector('img')) return cell.classList.add('nothing');
      const [label, value] = ['column', 'value'].map(kind => Object.assign(document.createElement('div'), { className: kind }));
      label.append(...[...heads[column].childNodes].map(node => node.cloneNode(true)));
      value.append(...cell.childNodes);
      cell.append(...(column > 0 && label.textContent.trim() ? [label] : []), value);
    });
    table.classList.add('cards');
  }

  const begin = () => document.querySelectorAll('.bd-article table').forEach(name);
  document.readyState === 'loading' ? document.addEventListener('DOMContentLoaded', begin) : begin();
})();
