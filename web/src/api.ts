/** The relay's HTTP API, as far as pages read it before the click. */

export interface RunSummary {
  id: string;
  name: string;
  description: string;
  host: string;
  round: number;
  peers: number;
  parameters: number;
}

export interface RunDetails {
  id: string;
  round: number;
  peers: number;
  manifest: {
    name: string;
    description: string;
    host: string;
    model: {
      vocab_size: number;
      hidden_size: number;
      intermediate_size: number;
      num_hidden_layers: number;
      num_attention_heads: number;
      num_key_value_heads: number;
      tie_word_embeddings: boolean;
    };
    data: {
      held_out_bytes: number;
      sources: { name: string; licence: string; attribution: string; chunks: { bytes: number }[] }[];
    };
    recipe: { context: number; batch: number; local_steps: number };
    timing: { train_ms_max: number };
  };
}

export class ApiError extends Error {
  constructor(
    readonly kind: 'notFound' | 'relayAway' | 'refused',
    message: string,
  ) {
    super(message);
  }
}

async function get<T>(path: string): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { headers: { accept: 'application/json' } });
  } catch {
    throw new ApiError('relayAway', 'The relay does not answer.');
  }
  if (response.status === 404 || response.status === 400)
    throw new ApiError('notFound', 'This relay has no such run.');
  if (!response.ok)
    throw new ApiError('refused', `The relay answered ${response.status} ${response.statusText}.`);
  return (await response.json()) as T;
}

export const listRuns = (): Promise<RunSummary[]> => get('/api/runs');

export const readRun = (id: string): Promise<RunDetails> => get(`/api/runs/${encodeURIComponent(id)}`);

/** Number of parameters of a Llama-style decoder, from its shape. */
export function parametersOf(model: RunDetails['manifest']['model']): number {
  const { vocab_size: vocab, hidden_size: hidden, intermediate_size: inner } = model;
  const keys = (hidden / model.num_attention_heads) * model.num_key_value_heads;
  const layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden;
  const embeddings = vocab * hidden * (model.tie_word_embeddings ? 1 : 2);
  return embeddings + model.num_hidden_layers * layer + hidden;
}
