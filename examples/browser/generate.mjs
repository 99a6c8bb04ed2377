// Greedy text of a causal language model, the same under Node and in a page.

/**
 * What the model goes on with after each prompt: `count` tokens at most.
 *
 * @param {object} transformers the module transformers.js
 * @param {string} model where the folder is, as `from_pretrained` takes it
 * @param {string[]} prompts
 * @param {number} count
 * @returns {Promise<{prompt: string, ids: number[], text: string}[]>} the new tokens, without those of the prompt
 */
export async function greedy({ AutoTokenizer, AutoModelForCausalLM }, model, prompts, count) {
  const tokenizer = await AutoTokenizer.from_pretrained(model);
  const loaded = await AutoModelForCausalLM.from_pretrained(model);
  const results = [];
  for (const prompt of prompts) {
    const inputs = tokenizer(prompt);
    const output = await loaded.generate({ ...inputs, max_new_tokens: count, do_sample: false });
    const all = output.tolist()[0].map(Number);
    const ids = all.slice(inputs.input_ids.dims[1]);
    results.push({ prompt, ids, text: tokenizer.decode(ids, { skip_special_tokens: false }) });
  }
  await loaded.dispose();
  return results;
}
