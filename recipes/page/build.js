// Writes charts.min.js and LICENSES.txt, which the package ships. See package.json.
import {build} from 'esbuild';
import {mkdirSync, readFileSync, readdirSync, writeFileSync} from 'node:fs';

const out = new URL('../../src/unbackdoor/assets/charts/', import.meta.url);
mkdirSync(out, {recursive: true});

const made = await build({
  entryPoints: ['charts.js'], bundle: true, minify: true, format: 'iife', globalName: 'unbackdoorCharts',
  target: 'es2020', charset: 'ascii', legalComments: 'none', metafile: true, write: false,
  alias: {vega: 'vega-util'},  // Vega-Lite takes three helpers from there; all of Vega would come along
});
const names = new Set();
for (const path of Object.keys(made.metafile.inputs)) {
  const match = path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (match) names.add(match[1]);
}
const parts = [...names].sort().map((name) => {
  const folder = `node_modules/${name}`;
  const {version, license} = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  return [name, version, license, readFileSync(`${folder}/${file}`, 'utf8').trim()];
});
const texts = new Map();
for (const [name, version, license, text] of parts) {
  texts.set(text, [...(texts.get(text) ?? []), `${name} ${version} (${license})`]);
}
const bar = '-'.repeat(80);
const {dependencies} = JSON.parse(readFileSync('package.json', 'utf8'));
const banner = `/* Parts of Vega ${dependencies.vega} and Vega-Lite ${dependencies['vega-lite']} (BSD-3-Clause), d3 (ISC); see LICENSES.txt */\n`;
// Inside of a page's <script> neither of these may stand; both occur in strings alone.
const code = made.outputFiles[0].text.replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--').trim();
writeFileSync(new URL('charts.min.js', out), banner + code + '\n');
writeFileSync(
  new URL('LICENSES.txt', out),
  [...texts].map(([text, list]) => `${list.join('\n')}\n\n${text}\n`).join(`\n${bar}\n\n`),
);
console.log(`${code.length} characters of ${parts.length} packages`);
