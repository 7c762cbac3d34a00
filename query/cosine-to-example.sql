-- Cosine of one example's vector with every row taken at the same place, most similar first.
-- param example text: its example_id
-- param layer int: the layer of both
-- param site text = resid_post: the site of both
-- param pooling text optional: the pooling of both; when missing, that of the example's first row
-- param region text optional: the region of both; when missing, that of the example's first row
-- param k int = 20: how many rows
WITH one AS (
    SELECT row_id, model, pooling, region FROM activations
    WHERE example_id = $example::VARCHAR
      AND layer = $layer::INTEGER AND site = $site::VARCHAR
      AND ($pooling::VARCHAR IS NULL OR pooling = $pooling::VARCHAR)
      AND ($region::VARCHAR IS NULL OR region = $region::VARCHAR)
    ORDER BY row_id LIMIT 1
), scored AS (
    SELECT row_id, example_id, mode, variant, position, pooling, region, label,
           cosine(activation, (
               SELECT activation FROM activations WHERE row_id = (SELECT row_id FROM one)
           )) AS cosine
    FROM activations
    WHERE layer = $layer::INTEGER AND site = $site::VARCHAR
      AND model = (SELECT model FROM one)
      AND pooling = (SELECT pooling FROM one)
      AND region IS NOT DISTINCT FROM (SELECT region FROM one)
)
FROM scored
ORDER BY isnan(cosine), cosine DESC, row_id
LIMIT $k::INTEGER
