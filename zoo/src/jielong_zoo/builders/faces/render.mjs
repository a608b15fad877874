// Draw avatars of DiceBear: one JSON object a line in, size * size * 4 bytes of RGBA out for each.
//   node render.mjs NODE_MODULES SIZE        line: {"style": "micah", "options": {"hair": ["full"], ...}}
// "mouth" is SVG in place of the style's mouth, and "view" the part of the drawing that is shown ("left top width height").
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [modules, size] = [process.argv[2], Number(process.argv[3])];
const load = (name) => import(pathToFileURL(join(modules, '@dicebear', name, 'lib', 'index.js')).href);
const { Resvg } = createRequire(join(modules, 'x.js'))('@resvg/resvg-js');
const { createAvatar } = await load('core');
const styles = {}, mouths = {};

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const { style, options, mouth, view } = JSON.parse(line);
  styles[style] ??= await load(style);
  // Every part is given, so the seed decides nothing; it also keeps identifiers in the SVG alike.
  let svg = createAvatar(styles[style], { seed: 'faces', ...options }).toString();
  // White lights of Personas overlay nothing where groups are isolated, and would turn every skin and hair pale.
  if (style === 'personas') svg = svg.replace(/(fill="#fff"[^>]*style="mix-blend-mode:overlay" opacity=)"[^"]*"/g, '$1".1"');
  if (mouth !== undefined) {
    mouths[style] ??= (await import(pathToFileURL(join(modules, '@dicebear', style, 'lib', 'components', 'mouth.js')).href)).mouth;
    const own = mouths[style][options.mouth[0]]({}, {});
    if (!svg.includes(own)) throw new Error(`the drawing of ${style} lacks its mouth ${options.mouth[0]}`);
    svg = svg.replace(own, () => mouth);
  }
  if (view !== undefined) svg = svg.replace(/viewBox="[^"]*"/, `viewBox="${view}"`);
  const image = new Resvg(svg, { fitTo: { mode: 'width', value: size }, background: '#ffffff', font: { loadSystemFonts: false } }).render();
  if (!process.stdout.write(image.pixels)) await new Promise((resolve) => process.stdout.once('drain', resolve));
}
