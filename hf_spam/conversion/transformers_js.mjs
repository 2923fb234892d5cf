// Classifies texts with Transformers.js, the same way in Node.js and in a browser.

const BATCH_SIZE = 32;

/**
 * Return the probability of each class for each text: `null` for all of them if the text makes Transformers.js fail.
 *
 * @param {object} library What `@huggingface/transformers` exports.
 * @param {{model: string, dtype: string, texts: string[]}} request The model is an absolute path in Node.js, and that of
 *   a URL in a browser; relative ones could be names on the Hub.
 * @returns {Promise<(number|null)[][]>} In the order of the texts; classes are in the order of their ids.
 */
export async function probabilities({ env, pipeline }, { model, dtype, texts }) {
  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, useBrowserCache: false, useFSCache: false });
  const classify = await pipeline("text-classification", model, { dtype });
  const { id2label } = classify.model.config;
  const ids = Object.keys(id2label);

  async function answer(batch) {
    const answers = await classify(batch, { top_k: null });
    return answers.map((scores) => {
      const score = Object.fromEntries(scores.map(({ label, score }) => [label, score]));
      return ids.map((id) => score[id2label[id]]);
    });
  }

  const found = texts.map(() => ids.map(() => null));
  const order = [...texts.keys()].sort((a, b) => texts[a].length - texts[b].length);
  for (let start = 0; start < order.length; start += BATCH_SIZE) {
    await new Promise((resume) => setTimeout(resume)); // a page answers only between batches
    const pending = [order.slice(start, start + BATCH_SIZE)];
    while (pending.length) {
      const chosen = pending.pop();
      try {
        const answers = await answer(chosen.map((i) => texts[i]));
        chosen.forEach((i, j) => (found[i] = answers[j]));
      } catch {
        if (chosen.length > 1) pending.push(...chosen.map((i) => [i])); // find the text that fails
      }
    }
  }
  return found;
}

// In Node.js: `node transformers_js.mjs LIBRARY` reads a request from standard input, and prints the answer.
if (globalThis.process?.argv[1]?.endsWith("transformers_js.mjs")) {
  const [{ text }, { pathToFileURL }] = await Promise.all([import("node:stream/consumers"), import("node:url")]);
  const library = await import(pathToFileURL(process.argv[2]));
  console.log(JSON.stringify(await probabilities(library, JSON.parse(await text(process.stdin)))));
}
