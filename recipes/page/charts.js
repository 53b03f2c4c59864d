// The parts of Vega that the page's charts use, and Vega-Lite: no maps, forces, trees or word clouds.
//
// unbackdoorCharts.draw(specification, element) -> the view. Expressions are interpreted, not compiled (the page's
// policy forbids eval), and whatever would be loaded from outside is refused.
import {extend} from 'vega-util';
import {transforms} from 'vega-dataflow';
import * as basic from 'vega-transforms';
import * as viewing from 'vega-view-transforms';
import * as encoding from 'vega-encode';
import {View} from 'vega-view';
import {parse} from 'vega-parser';
import {expressionInterpreter} from 'vega-interpreter';
import {compile} from 'vega-lite';

extend(transforms, basic, viewing, encoding);

const refused = () => Promise.reject(new Error('this page loads nothing'));
const loader = {load: refused, sanitize: refused, http: refused, file: refused, options: {}};

export function draw(specification, element) {
  const runtime = parse(compile(specification).spec, null, {ast: true});
  const view = new View(runtime, {
    expr: expressionInterpreter, loader, renderer: 'svg', container: element, hover: true,
  });
  return view.runAsync().then(() => view);
}
