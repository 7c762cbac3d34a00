-- Cosine of every row of one layer with one example's vector, most similar first.
-- param example text: its example_id
-- param layer int: the layer of both
-- param site text = resid_post: the site of both
-- param k int = 20: how many rows
SELECT row_id, example_id, mode, variant, label,
       cosine(activation, (
           SELECT activation FROM activations
           WHERE example_id = $example::VARCHAR
             AND layer = $layer::INTEGER AND site = $site::VARCHAR
           ORDER BY row_id LIMIT 1
       )) AS cosine
FROM activations
WHERE layer = $layer::INTEGER AND site = $site::VARCHAR
ORDER BY cosine DESC, row_id
LIMIT $k::INTEGER
