// What the page does with a script; every number and name is in the page without one.
(() => {
  'use strict';
  const data = JSON.parse(document.getElementById('page-data').textContent);
  const views = {};

  for (const [id, specification] of Object.entries(data.charts)) {
    const place = document.getElementById(id);
    const still = [...place.children];
    const drawing = document.createElement('div');
    place.append(drawing);
    views[id] = unbackdoorCharts.draw(specification, drawing).then((view) => {
      still.forEach((element) => element.remove());
      return view;
    }, (error) => {
      drawing.remove();  // the still picture stands
      console.error(error);
      return null;
    });
  }

  for (const table of document.querySelectorAll('table.sortable')) sortable(table);
  const slider = document.getElementById('slider');
  if (slider) slide(slider);
  printable();

  function sortable(table) {
    const body = table.tBodies[0];
    // Two lines of heads: the first two columns have one cell, each pair below has two.
    [...table.querySelectorAll('th[data-key]')].forEach((head, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = head.textContent;
      const label = head.getAttribute('aria-label');
      if (label) button.setAttribute('aria-label', label);
      head.replaceChildren(button);
      button.addEventListener('click', () => {
        const first = column === 0 ? 'ascending' : 'descending';
        const other = first === 'ascending' ? 'descending' : 'ascending';
        const order = head.getAttribute('aria-sort') === first ? other : first;
        table.querySelectorAll('th[aria-sort]').forEach((each) => each.removeAttribute('aria-sort'));
        head.setAttribute('aria-sort', order);
        const key = (row) => row.cells[column].dataset.sort;
        const compare = column === 0 ? (a, b) => key(a).localeCompare(key(b)) : (a, b) => key(a) - key(b);
        const sign = order === 'ascending' ? 1 : -1;
        body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
      });
    });
  }

  function slide(slider) {
    const input = document.getElementById('alpha');
    const rows = [...document.querySelectorAll('#alpha-points tbody tr')];
    const chosen = Number(input.dataset.chosen);
    slider.hidden = false;
    document.getElementById('alpha-points').open = false;
    const show = () => {
      const place = Number(input.value);
      const row = rows[place];
      const text = row.cells[0].firstChild.textContent.trim();
      document.getElementById('alpha-text').textContent = text;
      document.getElementById('alpha-chosen').textContent =
        place === chosen ? 'chosen' : `chosen: ${rows[chosen].cells[0].firstChild.textContent.trim()}`;
      input.setAttribute('aria-valuetext', `α ${text}${place === chosen ? ', chosen' : ''}`);
      document.querySelectorAll('#alpha-rates dd').forEach((rate, i) => {
        rate.replaceChildren(...[...row.cells[i + 1].childNodes].map((node) => node.cloneNode(true)));
      });
      answers(place, place === chosen ? 'of the cured model' : `at α = ${text}`);
      if (views['chart-alpha']) {
        views['chart-alpha'].then((view) => view && view.signal('position', Number(row.dataset.alpha)).run());
      }
    };
    input.addEventListener('input', show);
    show();
  }

  function answers(place, whose) {
    document.querySelectorAll('#examples figure').forEach((figure, i) => {
      const along = data.examples[i];
      if (!along || !along.length) return;
      document.getElementById('answers-of').textContent = whose;
      ['clean', 'triggered'].forEach((which, side) => {
        const answer = figure.querySelector(`[data-answer=${which}]`);
        answer.textContent = along[place][side];
        answer.classList.toggle('wrong', along[place][side] !== figure.dataset.truth);
      });
    });
  }

  function printable() {
    // What is folded on the screen is unfolded on paper.
    let folded = [];
    addEventListener('beforeprint', () => {
      folded = [...document.querySelectorAll('details:not([open])')];
      folded.forEach((each) => { each.open = true; });
    });
    addEventListener('afterprint', () => folded.forEach((each) => { each.open = false; }));
  }
})();
